"""Frechet distance between two sets of clips: of their frames, and of the changes from frame to frame.

Each frame has features f_t of a network that looks at images. Two distances of `fid.py` are taken: between
all f_t of both sides, and between all f_{t+1} - f_t. The first sees what the frames show, the second how they
follow each other: shuffled frames leave the first as it is.

It is not FVD, whose network (I3D) looks at whole clips: figures compare only with each other, at one rate.
Shapes: T frames, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.eval.metrics.fid import Moments, frechet_distance


@dataclass(slots=True, eq=False)
class ClipMoments:
    """Moments of frames and of changes, of clips that come one by one."""

    frames: Moments = field(default_factory=Moments)
    changes: Moments = field(default_factory=Moments)

    def add(self, features: Tensor) -> None:
        """Take in one clip: T F. Raises SettingsError for fewer than two frames, NumericsError for NaN."""
        if len(features) < 2:
            raise SettingsError(f"Changes need two frames: a clip has {len(features)}.")
        features = features.double()
        self.frames.add(features)
        self.changes.add(features[1:] - features[:-1])


@dataclass(frozen=True, slots=True)
class ClipDistance:
    """Squared Frechet distances, at least 0."""

    frames: float
    changes: float

    @property
    def total(self) -> float:
        """Both together: the distance of Gaussians in which frames and changes are not correlated."""
        return self.frames + self.changes


def clip_distance(first: ClipMoments, second: ClipMoments) -> ClipDistance:
    """Return how far two sets of clips lie apart. Raises SettingsError for features of different networks."""
    return ClipDistance(
        frechet_distance(first.frames, second.frames), frechet_distance(first.changes, second.changes)
    )
