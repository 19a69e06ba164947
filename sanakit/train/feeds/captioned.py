"""A feed of a loader's captioned images or clips, or of a cache that holds them encoded: the same batches.

Empty places of a batch and images that turn out broken count nothing, and every sound image counts the same:
one over the batch size. So an image that is alone in its bucket weighs no more than one of a full batch.
A rank reads all of its parts of a step before the first of them is computed: all ranks then agree on what
turned out broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from sanakit.data.batches.loader import LoadedBatch, Loader
from sanakit.data.cache.loader import CachedBatch, CachedLoader
from sanakit.models.dc_ae import DCAE
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.wan_vae import WanVAE
from sanakit.train.distributed.parallel import current_share
from sanakit.train.feeds.feed import Shown, Unencoded
from sanakit.train.parts import Part


class CaptionedFeed:
    """Shows what a loader reads.

    loader: of images, of clips or of a cache, on the codec's device. codec: of the same kind; it is frozen.
    To one of clips, an image is a clip of one frame. on_failure: called with all samples that turned out
    broken so far, on any rank, by name -> reason, when there are new ones.
    """

    def __init__(
        self,
        loader: Loader | CachedLoader,
        codec: DCAE | WanVAE | LTX2VAE,
        on_failure: Callable[[Mapping[str, str]], object] = lambda failed: None,
    ) -> None:
        self.loader, self.on_failure = loader, on_failure
        self.codec = codec.eval().requires_grad_(False)
        self._parts: list[Part] = []
        self._step = -1  # the step that is loaded
        self._loaded: dict[int, LoadedBatch | CachedBatch] = {}
        self._failed: dict[str, str] = {}

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the loader read ahead."""
        self._parts, self._step = list(parts), -1
        self.loader.begin(first, parts)

    def shown(self, step: int, part: Part) -> Shown:
        """Return a part of a step, one of those told to `begin`."""
        if step != self._step:
            self._load(step)
        loaded = self._loaded.pop(part.start)
        shares = loaded.weights / part.total
        if isinstance(loaded, CachedBatch):
            return Shown(loaded.latents, loaded.captions, shares, loaded.text, loaded.fps, loaded.cameras)
        pixels = loaded.images
        if pixels.ndim == 4 and not isinstance(self.codec, DCAE):
            pixels = pixels[:, :, None]  # B 3 1 H W
        return Shown(Unencoded(pixels, self.codec), loaded.captions, shares, fps=loaded.fps)

    def _load(self, step: int) -> None:
        """Read this rank's parts of a step, and tell images that are newly found broken on any rank."""
        self._loaded = {part.start: self.loader.batch(step, part) for part in self._parts}
        self._step = step
        count = torch.tensor(sum(int(batch.weights.sum()) for batch in self._loaded.values()))
        if current_share().world > 1:
            dist.all_reduce(count)
        if int(count) < int(self.loader.order.batch(step).weights.sum()):  # the same on every rank
            failed = _of_all_ranks(self.loader.report().failed)
            if failed.keys() - self._failed.keys():
                self._failed |= failed
                self.on_failure(self._failed)


def _of_all_ranks(named: dict[str, str]) -> dict[str, str]:
    """Join the dicts of all ranks; every rank has to call it."""
    world = current_share().world
    if world == 1:
        return named
    every: list[Any] = [None] * world
    dist.all_gather_object(every, named)
    return {key: reason for one in every for key, reason in one.items()}
