"""Train from a cache of latents (`sana data cache`): it has to fit the model, and shows what to measure on.

Shapes: B images, C h w latents.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from sanakit.data.cache.build import maker_of
from sanakit.data.cache.store import Cache
from sanakit.errors import DataError


def fitting_cache(
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    text: bool = True,
) -> Cache:
    """Open a cache to train a model on.

    resolution: of the training, in pixels; None: the cache's.   text: whether its text features, if it has
    any, are going to be used: not where the text encoder is trained along.
    Raises DataError, which names both, where the cache was made by other encoders or is of another
    resolution, and as `Cache` does.
    """
    cache = Cache(folder)
    cache.check(maker_of(model, text=text and cache.about.text_width > 0), resolution)
    return cache


def measured_on(cache: Cache, numbers: np.ndarray, count: int) -> tuple[Tensor, list[str], np.ndarray]:
    """Latents (B C h w, float32) of the first `count` images that are sound and have a caption, their
    first captions, and their numbers in the cache.

    numbers: of images of one bucket. Raises DataError if there is none.
    """
    found = [(number, cache[number]) for number in numbers.tolist()]
    usable = [(n, one, one.latents) for n, one in found if one.latents is not None and one.captions][:count]
    if not usable:
        raise DataError(
            f"None of {len(numbers)} images of the cache {cache.folder} is intact and has a caption: "
            "caption the images (sana data caption), and build the cache again in another folder."
        )
    latents = torch.stack([one for _, _, one in usable]).float()
    return (
        latents,
        [one.captions[0].text for _, one, _ in usable],
        np.array([number for number, _, _ in usable], dtype=np.int64),
    )
