"""A clip in memory, and clips as the tensors of video models.

Shapes: B clips, T frames, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from sanakit.clips.counts import as_rate
from sanakit.clips.writing import writing
from sanakit.errors import SettingsError
from sanakit.images.image import to_levels, to_tensor


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """Frames with their rate and settings.

    frames: T H W 3, uint8, sRGB, T at least 1. rate: frames a second, constant. settings: how it was made.
    notes: sentences on what reading it changed or left out. Raises SettingsError for frames of another kind.
    """

    frames: np.ndarray
    rate: Fraction
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, kind = self.frames.shape, self.frames.dtype
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3 or not self.frames.size:
            raise SettingsError(
                f"The frames came as {kind} of shape {shape}: give uint8 of shape (frames, height, width, 3)."
            )
        object.__setattr__(self, "rate", as_rate(self.rate))

    @property
    def seconds(self) -> Fraction:
        """How long it lasts, with the last frame's time."""
        return len(self.frames) / self.rate

    def tensor(self) -> Tensor:
        """Return the clip as 1 3 T H W, float32 in [-1, 1]."""
        return to_tensor(self.frames).transpose(0, 1)[None]

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> tuple[Path, tuple[str, ...]]:
        """Write the clip, whole or not at all; return the path and the writer's notes.

        quality, errors and what the suffix means: as for `writing`.
        """
        height, width = self.frames.shape[1:3]
        with writing(
            path, width=width, height=height, rate=self.rate, settings=self.settings, quality=quality
        ) as writer:
            for frame in self.frames:
                writer.add(frame)
        return writer.path, writer.notes


def clip_levels(clips: Tensor) -> np.ndarray:
    """Return B 3 T H W in [-1, 1] (clamped to it) as the frames of files: B T H W 3, uint8."""
    batch, _, frames = clips.shape[:3]
    levels = to_levels(clips.transpose(1, 2).flatten(0, 1)).numpy()
    return levels.reshape(batch, frames, *levels.shape[1:])
