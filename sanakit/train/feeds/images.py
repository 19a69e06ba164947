"""Training images without words: crops of images that can be indexed, or batches of a folder's loader.

A step's images are a pure function of (seed, step): every rank draws all places of the global batch
and cuts out its own (see `parts.py`). The loader's order does the same for what lies in files.
Shapes: B images of a part, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.loader import Loader
from sanakit.errors import SettingsError
from sanakit.images.image import to_tensor
from sanakit.seeds import step_generator
from sanakit.train.parts import Part


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of a part of a global batch."""

    images: Tensor  # B 3 H W in [-1, 1]
    shares: Tensor  # B, what each counts in the mean over the global batch; 0: padding
    part: Part  # their places in the global batch


class IndexedImages(Protocol):
    """Indexable images: an array N H W 3 of uint8, or an object that makes them on request."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class ImageFeed(Protocol):
    """The image source of an objective."""

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get ready for step `first` and later ones. parts: requested by this process in each."""
        ...

    def batch(self, step: int, part: Part) -> ImageBatch:
        """Return a part of a step's images."""
        ...


class Crops:
    """Square crops of images of one size, mirrored half of the time; later whole images.

    images: squares, uint8 H H 3. weights: how often each is drawn, as many as images; None: all alike.
    crop: side of the crops in pixels. whole_from: step from which batches hold whole images, a quarter as
    many. Raises SettingsError for a crop larger than the images.
    """

    def __init__(
        self,
        images: IndexedImages,
        weights: np.ndarray | None = None,
        *,
        seed: int = 0,
        crop: int = 128,
        whole_from: int = 10**9,
    ) -> None:
        self.side = images[0].shape[0]
        if not 0 < crop <= self.side:
            raise SettingsError(f"Crops of {crop} px do not fit: the images are {self.side} px wide.")
        self.images = images
        self.weights = torch.from_numpy(np.ones(len(images)) if weights is None else weights)
        self.seed, self.crop, self.whole_from = seed, crop, whole_from

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Do nothing: images are made on request."""

    def batch(self, step: int, part: Part) -> ImageBatch:
        """Draw crops of a part of a step's batch, or a quarter as many whole images."""
        whole = step >= self.whole_from
        own = part.of(max(1, part.total // 4)) if whole else part
        share = 1 / own.total
        if len(own) == 0:  # every rank computes gradients: an image that counts nothing
            start = min(own.start, own.total - 1)
            own, share = Part(start, start + 1, own.total), 0.0
        images = self._draw(own, self.side if whole else self.crop, step_generator(self.seed, step))
        return ImageBatch(images, torch.full((len(own),), share, dtype=torch.float32), own)

    def _draw(self, part: Part, side: int, generator: torch.Generator) -> Tensor:
        count, own = part.total, slice(part.start, part.stop)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)[own].tolist()
        corners = torch.randint(self.side - side + 1, (count, 2), generator=generator)[own].tolist()
        mirrored = torch.rand(count, generator=generator, dtype=torch.float32)[own] < 0.5
        crops = [
            self.images[i][y : y + side, x : x + side] for i, (y, x) in zip(chosen, corners, strict=True)
        ]
        images = to_tensor(np.stack(crops))
        images[mirrored] = images[mirrored].flip(-1)
        return images


class LoadedImages:
    """Whole images as a loader gives them, each batch in the size of one aspect bucket."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the loader read ahead."""
        self.loader.begin(first, parts)

    def batch(self, step: int, part: Part) -> ImageBatch:
        """Return a part of global batch `step`; empty places and broken images count nothing."""
        batch = self.loader.batch(step, part)
        return ImageBatch(batch.images, batch.weights / part.total, part)
