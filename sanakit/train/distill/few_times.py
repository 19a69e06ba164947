"""The few times of a student: which the model is asked at, how noisy samples are there, and the way between.

LongSANA's student makes the clean latents in sight noisy again with fresh noise; SANA-WM's takes Euler's
steps, and its levels are the times themselves. Training draws by the rule that its folder names
(`ChunkSettings`), so that a student meets what it will meet in use.
Shapes: any, with S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.few_step import LONG_SANA_SHIFT, LONG_SANA_TIMES, FewStep
from sanakit.flow.path import checked_times, interpolate
from sanakit.weights.video.settings import ChunkSettings


@dataclass(frozen=True, slots=True, eq=False)
class FewTimes:
    """A student's few times. fresh: whether there is fresh noise between two of them; else Euler's steps."""

    model_times: tuple[float, ...]  # S + 1 that the model is asked at, 0 last
    times: Tensor  # S + 1 levels of noise there, float64 on the CPU
    fresh: bool

    @classmethod
    def at(cls, times: Sequence[float] = LONG_SANA_TIMES, shift: float | None = LONG_SANA_SHIFT) -> FewTimes:
        """Return those of times in (0, 1], descending. shift, errors: as of `ChunkSettings`, `FewStep`."""
        if shift is not None:
            sampler = FewStep(times, shift)
            return cls(sampler.model_times, sampler.times, fresh=True)
        asked = (*times, 0.0)
        return cls(asked, checked_times(torch.tensor(asked, dtype=torch.float64, device="cpu")), fresh=False)

    @classmethod
    def of(cls, chunks: ChunkSettings) -> FewTimes:
        """Return those of a model's chunks. Raises SettingsError for one that is not distilled."""
        if chunks.times is None:
            raise SettingsError("The student's few steps need times: set them in its chunks.")
        return cls.at(chunks.times, chunks.shift)

    @property
    def steps(self) -> int:
        """The number of steps, S."""
        return len(self.times) - 1

    def onward(self, step: int, clean: Tensor, velocity: Tensor, noise: Tensor | None) -> Tensor:
        """Return the sample at the next time. clean, velocity: what is seen at a step, from 0.

        noise: fresh; None for Euler's steps, which keep the noise in sight, clean + velocity.
        """
        assert (noise is not None) == self.fresh, "fresh noise is for samplers that take it"
        return interpolate(clean, clean + velocity if noise is None else noise, self.times[step + 1].item())
