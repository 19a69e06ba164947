"""The clips of a training: encoded once, and those to measure on.

Shapes: B clips, C latent channels, T frames, h w latents.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.order import evenly
from sanakit.data.cache.build import build_cache, plan_cache
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.cache.store import Cache, is_cache
from sanakit.data.read.open import check_apart
from sanakit.errors import DataError
from sanakit.train.distributed.parallel import current_share, wait
from sanakit.train.feeds.cached_data import fitting_cache, measured_on
from sanakit.wording import counted

StrPath = str | os.PathLike[str]

REFERENCE = 8  # clips to measure on, at most
HELD_OUT_FROM = 100  # clips; of fewer, all are trained on, those to measure on, too


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedClips:
    """Clips of one training.

    latents: B C T h w, normalised, of those to measure on; captions, cameras: theirs, as `Shown` has them.
    notes: sentences on what became of the clips.
    """

    loader: CachedLoader
    latents: Tensor
    captions: Sequence[str]
    cameras: Tensor | None
    notes: tuple[str, ...]

    @property
    def prompts(self) -> list[str]:
        """The first caption of each clip that is trained on, at least one; read from the cache."""
        cache, numbers = self.loader.cache, np.concatenate(self.loader.buckets.members).tolist()
        found = [some[0].text for number in numbers if (some := cache.captions(number))]
        return found or list(self.captions)  # where all clips with captions are held out


def open_trained_clips(
    data: StrPath,
    folder: Path,
    model: StrPath,
    *,
    batch_size: int,
    seed: int,
    resolution: int | None,
    device: torch.device,
    text: bool = False,
) -> TrainedClips:
    """Open clips to train a model on: a cache that fits it, or clips, of which one is made in `folder`.

    model: the one with the encoders. resolution: in pixels; None: the cache's, or the model's own. text:
    encode captions, too. Clips to measure on are of the size that most have. Raises DataError without clips,
    or captions, and as opening and encoding do.
    """
    cache = clip_cache(data, folder, model, resolution, text=text)
    settings = {"batch_size": batch_size, "seed": seed, "device": device}
    loader = CachedLoader(cache, **settings)
    members = max(loader.buckets.members, key=len)
    latents, captions, numbers = measured_on(cache, evenly(members, 2 * REFERENCE), REFERENCE)
    told: list[str] = []
    if len(loader.buckets) >= HELD_OUT_FROM:
        loader = CachedLoader(cache, held_out=numbers, **settings)
        told.append(f"{counted(len(numbers), 'clip is', 'clips are')} held out to measure on.")
    cameras = None
    if cache.about.cameras:
        cameras = torch.stack([cast(Tensor, cache[number].cameras) for number in numbers.tolist()])
    notes = (*str(loader.report()).splitlines(), *told)
    return TrainedClips(loader=loader, latents=latents, captions=captions, cameras=cameras, notes=notes)


def clip_cache(data: StrPath, folder: Path, model: StrPath, resolution: int | None, *, text: bool) -> Cache:
    """Return the cache at `data`, or one of the clips there, made in `folder` by the first process.

    A cache that was begun there is continued. Raises as `open_trained_clips` does.
    """
    if is_cache(data):
        cache = fitting_cache(data, model, resolution=resolution)
        if cache.about.clips is None:
            raise DataError(f"{data} is a cache of images: give clips, or a cache of clips.")
        return cache
    check_apart(data, folder)
    if current_share().rank == 0:
        build_cache(plan_cache(data, folder, model, resolution, text=text))
    wait()
    return Cache(folder)
