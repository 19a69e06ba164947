"""How well drawn clips follow wanted ones: PSNR, and what a still image cannot show.

Shapes: B clips, T frames, H W pixels; values in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WHITE = 0.98  # of the range: a pixel with a darker channel belongs to the thing


@dataclass(frozen=True, slots=True)
class RebuiltFigures:
    """Figures of clips that were drawn again.

    psnr: in dB, mean over the clips. inner: PSNR in dB of all pixels that are not white in the wanted clips.
    flicker: error of the differences of neighbouring frames, over those differences; 0: equal; 1: as far off
    as a clip that does not move. motion: differences drawn over differences wanted; below 1: blurred in time.
    """

    psnr: float
    inner: float
    flicker: float
    motion: float


@torch.no_grad()
def clip_figures(drawn: Tensor, wanted: Tensor) -> RebuiltFigures:
    """Compare clips, B 3 T H W each; T at least 2, and something moves. Infinite PSNR for equal ones."""
    drawn, wanted = (drawn.clamp(-1, 1) + 1) / 2, (wanted + 1) / 2
    error = (drawn - wanted).square()
    inner = (wanted.amin(1, keepdim=True) < WHITE).expand_as(error)
    moved, moves = drawn.diff(dim=2), wanted.diff(dim=2)
    real = moves.abs().mean()
    return RebuiltFigures(
        psnr=_decibels(error.flatten(1).mean(1)).mean().item(),
        inner=_decibels(error[inner].mean()).item(),
        flicker=((moved - moves).abs().mean() / real).item(),
        motion=(moved.abs().mean() / real).item(),
    )


def _decibels(error: Tensor) -> Tensor:
    return -10 * error.log10()
