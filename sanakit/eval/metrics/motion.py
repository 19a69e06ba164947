"""Motion of a clip: how much there is of it, and how smooth it is.

Motion is the mean |x_{t+1} - x_t| in percent of the range. The dynamic degree of a set of clips is the median
of their motions over the median of real clips. Noise counts as motion: read it with flicker on still pixels.

Smoothness is VBench's equation (arXiv:2311.17982) with another interpolation. Every second frame is left
out and made again from its two neighbours a and b:

    1 - mean |x_{2k+1} - y_{2k+1}| / 255,   y(p) = (a(p - d) + b(p + d)) / 2

VBench's y is drawn by a network (AMT-S). Here d is the motion of the block of 8 x 8 pixels around p: the one
of at most 6 pixels up, down, left and right for which a(p - d) and b(p + d) agree best over the block, the
shortest of several. The left-out frame is not looked at. d = 0 everywhere is the plain mean, the second
figure. A pixel outside the frame is the nearest one inside.
Shapes: T frames, H W pixels, h w blocks; uint8 in three channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import DataError, SettingsError
from sanakit.eval.metrics.flicker import BLOCK, RANGE, changes

REACH = 6  # pixels of motion between a frame and the next that are looked for
_SHIFTS = sorted(
    ((dy, dx) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)),
    key=lambda shift: (shift[0] ** 2 + shift[1] ** 2, shift),
)


@dataclass(frozen=True, slots=True)
class Smoothness:
    """Both figures, in [0, 1]. blocks: by the motion of blocks. mean: by the plain mean of neighbours."""

    blocks: float
    mean: float


def motion(frames: np.ndarray) -> float:
    """Return the mean difference of neighbouring frames, in percent of the range: T H W 3, uint8.

    This is 100 (1 - temporal flicker): the same number, read the other way.
    """
    return 100 * float(np.mean([np.abs(change).mean() for change in changes(frames)])) / RANGE


def dynamic_degree(motions: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median motion over that of reference clips; 1: as much as they have.

    motions, reference: of each clip, at the same rate. Raises SettingsError for none, DataError if the
    reference clips do not move.
    """
    if not len(motions) or not len(reference):
        raise SettingsError("A dynamic degree needs a clip on each side: add some.")
    real = float(np.median(reference))
    if not real:
        raise DataError("At least half of the reference clips do not move: choose others.")
    return float(np.median(motions)) / real


def smoothness(frames: np.ndarray) -> Smoothness:
    """Return how well every second frame follows from its neighbours: T H W 3, uint8.

    The frames 1, 3, 5, ... are left out and made again; a last one without a right neighbour does not count.
    Raises SettingsError for fewer than three frames.
    """
    if len(frames) < 3:
        raise SettingsError(f"Smoothness needs a frame between two others: three, not {len(frames)}.")
    blocks, mean = [], []
    for number in range(1, len(frames) - 1, 2):
        before, middle, after = (_planes(frames[number + step]) for step in (-1, 0, 1))
        blocks.append(_distance(middle, by_blocks(before, after)))
        mean.append(_distance(middle, (before + after) / 2))
    return Smoothness(1 - float(np.mean(blocks)) / RANGE, 1 - float(np.mean(mean)) / RANGE)


def by_blocks(before: Tensor, after: Tensor) -> Tensor:
    """Make the frame between two others by the motion of blocks; all 3 H W, in levels."""
    motions = torch.tensor(_SHIFTS)[_best_shifts(before, after)]  # h w 2
    height, width = before.shape[1:]
    whole = motions.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:height, :width]
    dy, dx = whole.unbind(-1)  # H W
    y, x = torch.arange(height)[:, None], torch.arange(width)
    left = before[:, (y - dy).clamp(0, height - 1), (x - dx).clamp(0, width - 1)]
    right = after[:, (y + dy).clamp(0, height - 1), (x + dx).clamp(0, width - 1)]
    return (left + right) / 2


def _best_shifts(before: Tensor, after: Tensor) -> Tensor:
    """Return which of _SHIFTS fits each block: h w."""
    height, width = before.shape[1:]
    first, second = (F.pad(frame[None], (REACH,) * 4, mode="replicate")[0] for frame in (before, after))
    best = torch.full((-(-height // BLOCK), -(-width // BLOCK)), torch.inf, dtype=torch.float32)
    chosen = torch.zeros(best.shape, dtype=torch.long)
    for number, (dy, dx) in enumerate(_SHIFTS):
        moved = first[:, REACH - dy :, REACH - dx :][:, :height, :width]
        back = second[:, REACH + dy :, REACH + dx :][:, :height, :width]
        apart = (moved - back).abs().sum(0, keepdim=True)  # exact: whole levels
        cost = F.avg_pool2d(apart, BLOCK, ceil_mode=True)[0]  # a block at an edge: mean of what is inside
        chosen = torch.where(cost < best, number, chosen)
        best = torch.minimum(cost, best)
    return chosen


def _planes(frame: np.ndarray) -> Tensor:
    """Return H W 3 uint8 as 3 H W float32, in levels."""
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).float().contiguous()


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean(dtype=torch.float64))
