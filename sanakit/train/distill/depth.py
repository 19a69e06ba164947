"""Distillation: a pruned transformer learns from the one that it was cut out of.

Flow matching's target, noise - image, is one of many that lead through the same noisy latents; a model learns
their mean. A teacher has an estimate of that mean: its velocity as the target does not vary as the images'
own do. A second target guides the blocks: each of the student's blocks learns the teacher's tokens before the
student's next block. It thus does the work of the removed blocks behind it (block by block as in BK-SDM,
arXiv:2305.15798).

Shapes: B batch, C H W latents, N tokens, D width, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.models.sana import Sana


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A finished transformer that a shallower one of the same width is to equal.

    stages: for each block of the student the number of the teacher's block behind which the tokens are those
    that it is to give.
    """

    transformer: Sana
    stages: Sequence[int]

    def errors(self, student: Sana, noisy: Tensor, t: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Return the student's distance from the teacher per sample: B, differentiable in the student only.

        The mean square of the velocities' difference, and the tokens' relative square error, the mean of all
        stages.
        noisy: B C H W. t: B, in [0, 1]. text: B L E, what both read. mask: B L, true where a token is real.
        """
        wanted: list[Tensor] = []
        given: list[Tensor] = []
        with torch.no_grad():
            target = self.transformer(noisy, t, text, mask, tokens=wanted).float()
        errors = (student(noisy, t, text, mask, tokens=given).float() - target).square().flatten(1).mean(1)
        for tokens, stage in zip(given, self.stages, strict=True):
            right = wanted[stage].float().flatten(1)
            away = (tokens.float().flatten(1) - right).square().sum(1) / right.square().sum(1)
            errors = errors + away / len(given)
        return errors
