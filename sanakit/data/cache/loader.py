"""Batches of a cache: the batches that `Loader` gives for the images or clips, already encoded.

Global batch k holds the same images with the same captions as the loader's batch k of the same source,
resolution, batch size and seed: a run can continue with either. Nothing is decoded, so there are no workers.
Of clips, a cache has the beginning of each, where the loader begins anywhere.
Shapes: B the samples of a part, C h w latents of its bucket (of clips C t h w), L text tokens of a sample, E
text width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.buckets import Buckets
from sanakit.data.batches.loader import LoaderReport, SampleRange
from sanakit.data.batches.order import EMPTY, Order, repeated
from sanakit.data.cache.store import LATENTS, TEXT, Cache, CachedImage
from sanakit.data.read.captions import TEMPERATURE, THRESHOLD, Caption, draw_caption
from sanakit.errors import SettingsError
from sanakit.seeds import uniform


@dataclass(slots=True)
class CachedBatch:
    """A part of a global batch.

    latents: B C h w, float32, times the scaling factor, as the transformer is trained on; of clips B C t h w,
    normalised; 0 where the weight is.   text: B features L E, bfloat16, unpadded, the first of them BOS;
    empty where the cache has no text.   captions, weights, keys, fps: as in `loader.LoadedBatch`.   cameras:
    of clips along camera paths, B F 20; those of empty places stand still.
    """

    latents: Tensor
    text: list[Tensor]
    captions: list[str]
    weights: Tensor
    keys: list[str]
    fps: float | None = None
    cameras: Tensor | None = None


class CachedLoader:
    """Loads parts of global batches; has the methods of `loader.Loader`.

    cache: an open one, or its folder.   held_out: numbers in the cache of images that are not given.
    batch_size, seed, temperature, threshold, repeats, device: as for `Loader`.
    Raises DataError for a cache that is unfinished or damaged and where all of it is held out, SettingsError
    for what is out of range.
    """

    def __init__(
        self,
        cache: Cache | str | os.PathLike[str],
        *,
        batch_size: int,
        held_out: Sequence[int] | np.ndarray = (),
        seed: int = 0,
        temperature: float = TEMPERATURE,
        threshold: float = THRESHOLD,
        repeats: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.seed, self.device = seed, torch.device(device)
        self.temperature, self.threshold = temperature, threshold
        self._uncaptioned = 0
        draw_caption([Caption("")], 0.0, temperature=temperature, threshold=threshold)  # checks the numbers
        # as for the loader, a bucket without images is none
        kept = [numbers[~np.isin(numbers, held_out)] for numbers in self.cache.members]
        filled = [place for place, numbers in enumerate(kept) if len(numbers)]
        sizes = tuple(self.cache.about.sizes[place] for place in filled)
        self.buckets = Buckets(sizes, tuple(kept[place] for place in filled), left_out={})
        self.order = Order(repeated(self.buckets.members, repeats), batch_size, seed)

    def begin(self, first: int, parts: Sequence[SampleRange]) -> None:
        """Check the parts that will be requested; there is nothing to read ahead. Raises SettingsError."""
        for part in parts:
            self._check(part)

    def batch(self, step: int, part: SampleRange) -> CachedBatch:
        """Return a part of global batch `step`. Raises DataError for a damaged row, which it names."""
        self._check(part)
        drawn = self.order.batch(step)
        rows = drawn.images[part.start : part.stop].tolist()
        images = [CachedImage("", EMPTY) if row == EMPTY else self.cache[row] for row in rows]
        shape = self.cache.about.latent_shape(self.buckets.sizes[drawn.bucket])
        nothing = torch.zeros(shape, dtype=LATENTS)
        latents = torch.stack([nothing if one.latents is None else one.latents for one in images])
        chosen = [self._draw(image, step) for image in images]
        return CachedBatch(
            latents.to(self.device).float(),
            self._text(images, chosen),
            [
                one.captions[place].text if one.captions else ""
                for one, place in zip(images, chosen, strict=True)
            ],
            torch.tensor([one.latents is not None for one in images], device=self.device).float(),
            [image.key for image in images],
            None if self.cache.about.clips is None else self.cache.about.clips.fps,
            self._cameras(images, self.buckets.sizes[drawn.bucket]),
        )

    def report(self) -> LoaderReport:
        """Say what became of the images that the cache was made of; print it."""
        about = self.cache.about
        return LoaderReport(
            pictures=about.pictures,
            used=len(self.buckets),
            broken=dict(about.broken),
            left_out=dict(about.left_out),
            failed=dict(self.cache.failed),
            ignored=dict(about.ignored),
            uncaptioned=self._uncaptioned,
            empty_share=self.order.empty_share,
            notes=dict(about.notes),
            samples=about.samples,
        )

    def close(self) -> None:
        """Do nothing; exists so that training can use either loader."""

    def __enter__(self) -> CachedLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _draw(self, image: CachedImage, step: int) -> int:
        """Return the index of the caption that this step trains on; 0 if the image has none."""
        if not image.captions:
            self._uncaptioned += image.latents is not None
            return 0
        u = uniform(self.seed, step, image.number)
        caption = draw_caption(image.captions, u, temperature=self.temperature, threshold=self.threshold)
        return image.captions.index(caption)

    def _text(self, images: list[CachedImage], chosen: list[int]) -> list[Tensor]:
        """Features of the captions drawn; of a sample without weight one token of zeros: a softmax over no
        token at all would be NaN."""
        width = self.cache.about.text_width
        if not width:
            return []
        zeros = torch.zeros((1, width), dtype=TEXT)
        text = [one.text[place] if one.text else zeros for one, place in zip(images, chosen, strict=True)]
        # one copy to the device, not B of them
        return list(torch.cat(text).to(self.device).split([len(features) for features in text]))

    def _cameras(self, images: list[CachedImage], size: tuple[int, ...]) -> Tensor | None:
        """Return the cameras of a batch's clips, B F 20; None where the cache has none."""
        if not self.cache.about.cameras:
            return None
        still = torch.cat(
            [torch.eye(4, dtype=torch.float32).flatten(), torch.ones(4, dtype=torch.float32)]
        ).expand(size[0], -1)
        sound = [still if one.latents is None or one.cameras is None else one.cameras for one in images]
        return torch.stack(sound).to(self.device)

    def _check(self, part: SampleRange) -> None:
        if not 0 <= part.start < part.stop <= part.total == self.order.batch_size:
            raise SettingsError(
                f"Samples {part.start} to {part.stop} of {part.total} were requested, but the global batch "
                f"has {self.order.batch_size}: create the loader with the batch size of all ranks together."
            )
