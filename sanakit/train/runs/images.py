"""The images of a fine-tuning: opened, counted by their captions, and those to measure on.

Shapes: B images, H W pixels, C h w latents.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sanakit.data.batches.loader import Loader
from sanakit.data.batches.order import evenly
from sanakit.data.cache.build import build_cache, plan_cache
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.cache.store import Cache, is_cache
from sanakit.data.read.captions import Caption
from sanakit.data.read.decode import decode
from sanakit.data.read.given_captions import GivenCaptions
from sanakit.data.read.index import Index, scan
from sanakit.data.read.open import check_apart, open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError, SettingsError
from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import current_share
from sanakit.train.feeds.cached_data import fitting_cache, measured_on
from sanakit.train.feeds.feed import decoded, encoded

StrPath = str | os.PathLike[str]

INDEX = "pictures.npz"  # what is known of the images' sizes, in the run's folder
FEW = 500  # images that are encoded once, before the first step
COUNTED = 20_000  # images whose captions are counted before the training, at most
_KOHYA = re.compile(r"([1-9]\d{0,2})_.+")  # not the year in "2024_holidays"


@dataclass(frozen=True, slots=True)
class TrainedImages:
    """The training images. resolution: in pixels. index: of a source; a cache has none.

    repeats: how often images come in an epoch, by the beginning of their paths; others come once.
    """

    source: Source | Cache
    resolution: int
    index: Index | None
    repeats: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return what tells these images from others."""
        if isinstance(self.source, Cache):
            return self.source.about.source
        return cast(Index, self.index).fingerprint

    def loader(
        self, without: np.ndarray, config: TrainConfig, *, multiple: int, device: torch.device, workers: int
    ) -> Loader | CachedLoader:
        """Return a loader of all images but those numbers."""
        size, seed, repeats = config.batch_size, config.seed, self._repeats()
        if isinstance(self.source, Cache):
            return CachedLoader(
                self.source, batch_size=size, held_out=without, seed=seed, repeats=repeats, device=device
            )
        return Loader(
            self.source,
            cast(Index, self.index).without(without),
            resolution=self.resolution,
            batch_size=size,
            seed=seed,
            workers=workers,
            multiple=multiple,
            repeats=repeats,
            device=device,
        )

    def _repeats(self) -> np.ndarray | None:
        """Return how often each image comes; None: once. Raises SettingsError for a folder that is none."""
        if not self.repeats:
            return None
        counts, left = np.ones(len(self.source), dtype=np.int64), dict(self.repeats)
        for number in range(len(self.source)):
            key = self.source.key(number)
            for start, times in self.repeats.items():
                if key.startswith(f"{start.rstrip('/')}/"):
                    counts[number] = times
                    left.pop(start, None)
        if left:
            raise SettingsError(
                f"No image lies in the folder {min(left)!r}, whose images were to be repeated."
            )
        return counts


def open_images(
    data: StrPath,
    output: Path,
    model: StrPath,
    *,
    resolution: int | None,
    own: int,
    text: bool,
    captions: Sequence[str] = (),
) -> TrainedImages:
    """Open images, or a cache of them that fits the model, and make the run's folder.

    resolution: asked for, in pixels; None: that of a cache, or the model's `own`. text: whether text features
    of a cache are going to be used. captions: in place of the images' own, one for all or one for each; ():
    their own. Raises DataError.
    """
    if captions and is_cache(data):
        raise DataError(f"{data} is a cache, whose captions are in it: give the images, or no caption.")
    if is_cache(data):
        cache = fitting_cache(data, model, resolution=resolution, text=text)
        images = TrainedImages(cache, cache.about.resolution, None)
    else:
        check_apart(data, output)
        opened = open_source(data)
        opened = GivenCaptions(opened, captions) if captions else opened
        side = own if resolution is None else resolution
        images = TrainedImages(opened, side, scan(opened, output / INDEX))
    output.mkdir(parents=True, exist_ok=True)
    return images


def named_repeats(source: Source | Cache) -> dict[str, int]:
    """Return how often images of folders come whose names say so, as Kohya's scripts read them: "10_dog".

    Numbers from 2 to 999 count.
    """
    folders = {parent for n in range(len(source)) for parent in PurePosixPath(source.key(n)).parents}
    found = {str(folder): _KOHYA.fullmatch(folder.name) for folder in sorted(folders)}
    return {folder: int(match[1]) for folder, match in found.items() if match and match[1] != "1"}


def encoded_few(
    images: TrainedImages, folder: Path, model: StrPath, plan: str | None = None
) -> TrainedImages:
    """Return images of a source as a cache of latents and text features, if they are few; else as they are.

    folder: of the cache, which is continued. plan: by which the model's text encoder is quantised. The first
    of several processes makes it.
    """
    if isinstance(images.source, Cache) or len(images.source) > FEW:
        return images
    share = current_share()
    if share.rank == 0:
        own = plan_cache(images.source, folder, model, images.resolution, text=True, quantised=plan)
        build_cache(own)
    if share.world > 1:
        dist.barrier()
    return replace(images, source=Cache(folder), index=None)


def count_captions(source: Source | Cache, numbers: np.ndarray) -> Counter[int]:
    """Count images by how many captions they have, over at most 20,000 of them, evenly spread.

    numbers: of the images to look at. Raises DataError if none has one.
    """
    chosen = evenly(np.sort(numbers), COUNTED).tolist()
    counted = Counter(len(_captions(source, number)) for number in chosen)
    if counted[0] == len(chosen):
        raise DataError(
            f"None of the {len(chosen)} images has a caption: write one into a .txt file of the image's "
            "name, or have them captioned (sana data caption)."
        )
    return counted


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Images to measure on, of one bucket, so that they go through the model together."""

    images: Tensor  # B 3 H W in [-1, 1]
    captions: list[str]  # B
    latents: Tensor  # B C h w, scaled


def measured_images(
    source: Source | Cache, loader: Loader | CachedLoader, codec: DCAE, count: int
) -> tuple[Reference, np.ndarray]:
    """Return at most `count` images of the fullest bucket with a caption each, and their numbers.

    Raises DataError where there is none.
    """
    (height, width), members = max(
        zip(loader.buckets.sizes, loader.buckets.members, strict=True), key=lambda bucket: len(bucket[1])
    )
    looked_at = evenly(members, 2 * count)
    if isinstance(source, Cache):
        latents, texts, numbers = measured_on(source, looked_at, count)
        return Reference(decoded(codec, latents), texts, latents), numbers
    found: list[tuple[int, Tensor, str]] = []
    for number in looked_at.tolist():  # some may be broken or lack a caption
        captions = _captions(source, number)
        try:
            if captions:
                found.append((number, decode(source.read(number), height, width), captions[0].text))
        except (DataError, OSError):
            continue  # the report names it when its turn comes
        if len(found) == count:
            break
    if not found:
        raise DataError(
            f"None of the images for {width}x{height}, the size that most have, can be read and has a "
            "caption: mend or caption them."
        )
    stacked = torch.stack([image for _, image, _ in found]).permute(0, 2, 3, 1).numpy()
    numbers = np.array([number for number, _, _ in found], dtype=np.int64)
    images = to_tensor(stacked)
    latents = torch.cat([encoded(codec, part) for part in images.split(4)])
    return Reference(images, [caption for _, _, caption in found], latents), numbers


def _captions(source: Source | Cache, number: int) -> tuple[Caption, ...]:
    """Return an image's captions; damaged ones count as none here, and make the image fail in training."""
    try:
        return source.captions(number)
    except (DataError, OSError):
        return ()
