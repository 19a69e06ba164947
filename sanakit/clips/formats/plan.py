"""The plan of a clip to be written, as the writers of all formats take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

AddFrame = Callable[[np.ndarray], None]  # takes the next frame: H W 3, uint8, contiguous


@dataclass(frozen=True, kw_only=True, slots=True)
class WritePlan:
    """A clip to be written, checked. quality: 1 to 100. comment: the settings as one ASCII text."""

    width: int
    height: int
    rate: Fraction
    quality: int
    settings: Mapping[str, str | int | float]
    comment: str

    def ticks(self, number: int, parts: int) -> int:
        """Return how long a frame lasts, in 1/parts s, so that no error adds up. number: from 0."""
        return round((number + 1) * parts / self.rate) - round(number * parts / self.rate)
