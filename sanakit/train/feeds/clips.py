"""Training clips without words: windows of looping clips, from any frame on, at several paces.

A causal autoencoder has to be trained on windows as long as the clips it is for. Its layers look back by many
latents, and on shorter windows they never see what lies there.

A step's clips are a pure function of (seed, step): every rank draws all places of the global batch and cuts
out its own (see `parts.py`).
Shapes: B clips of a part, T frames, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sanakit.images.image import to_tensor
from sanakit.seeds import step_generator
from sanakit.train.parts import Part


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of a part of a global batch."""

    clips: Tensor  # B 3 T H W in [-1, 1]
    shares: Tensor  # B, what each counts in the mean over the global batch; 0: padding


class Loops(Protocol):
    """Clips whose last frame is followed by the first one, all of one size."""

    @property
    def lengths(self) -> Sequence[int]:
        """The frames of each clip."""
        ...

    def take(self, number: int, start: int, step: int, count: int) -> np.ndarray:
        """Return `count` frames of a clip, every `step`-th from `start` on, round the loop.

        Returns T S S 3, uint8.
        """
        ...


class ClipFeed(Protocol):
    """The clip source of an objective."""

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get ready for step `first` and later ones. parts: requested by this process in each."""
        ...

    def batch(self, step: int, part: Part) -> ClipBatch:
        """Return a part of a step's clips."""
        ...


class Windows:
    """Windows of looping clips: from a random frame on, mirrored half of the time.

    weights: how often each clip is drawn, as many as clips. frames: of a window. paces: steps between source
    frames, one of which each window is drawn with.
    """

    def __init__(
        self,
        loops: Loops,
        weights: np.ndarray,
        *,
        seed: int = 0,
        frames: int = 17,
        paces: Sequence[int] = (1,),
    ) -> None:
        self.loops, self.weights, self.seed = loops, torch.from_numpy(weights), seed
        self.frames, self.paces = frames, torch.tensor(paces)

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Do nothing: windows are made on request."""

    def batch(self, step: int, part: Part) -> ClipBatch:
        """Draw windows of a part of a step's batch."""
        clips = self._draw(part, step_generator(self.seed, step))
        return ClipBatch(clips, torch.full((len(part),), 1 / part.total, dtype=torch.float32))

    def _draw(self, part: Part, generator: torch.Generator) -> Tensor:
        count, own = part.total, slice(part.start, part.stop)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)[own]
        places = torch.rand(count, generator=generator, dtype=torch.float64)[own]
        paces = self.paces[torch.randint(len(self.paces), (count,), generator=generator)[own]]
        mirrored = torch.rand(count, generator=generator, dtype=torch.float32)[own] < 0.5
        windows = [
            self.loops.take(i, int(place * self.loops.lengths[i]), pace, self.frames)
            for i, place, pace in zip(chosen.tolist(), places.tolist(), paces.tolist(), strict=True)
        ]
        clips = torch.stack([to_tensor(window) for window in windows]).transpose(1, 2)  # B 3 T S S
        clips[mirrored] = clips[mirrored].flip(-1)
        return clips
