"""Feeds pocket's transformer: samples of a pool by their chances, each in newly chosen words.

Shapes: B batch, C h w a latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sanakit.pocket.data.dataset import PocketRow
from sanakit.pocket.data.pool import Pool
from sanakit.pocket.data.samples import SHARES, draw_chances
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.wording import Wording
from sanakit.seeds import numpy_generator
from sanakit.train.feeds.feed import Shown
from sanakit.train.parts import Part


class PocketFeed:
    """Draws a size for each step, then samples of it.

    scale: of the latents. shares: how often each kind of samples is drawn. seed: of all that is drawn.
    """

    def __init__(
        self,
        pool: Pool,
        rows: Sequence[PocketRow],
        scenes: Scenes,
        wording: Wording,
        *,
        scale: float,
        shares: Mapping[str, float] = SHARES,
        seed: int = 0,
    ) -> None:
        self.pool, self.rows, self.scenes, self.wording = pool, rows, scenes, wording
        self.scale, self.seed = scale, seed
        chances = draw_chances(pool.samples, shares)
        self._sizes = list(pool.indices)
        own = {size: chances[indices] for size, indices in pool.indices.items()}
        self._size_sums = np.cumsum([own[size].sum() for size in self._sizes])
        self._sums = {size: some.cumsum() for size, some in own.items()}

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Nothing to prepare: latents lie in mapped memory."""

    def shown(self, step: int, part: Part) -> Shown:
        """Return a part of a step's batch."""
        size, drawn = self.drawn(step, part)
        latents = torch.from_numpy(self.pool.latents[size][drawn].astype(np.float32)) * self.scale
        captions = [
            self.caption(self.pool.indices[size][i], numpy_generator(self.seed, step, part.start + k))
            for k, i in enumerate(drawn.tolist())
        ]
        return Shown(latents, captions)

    def drawn(self, step: int, part: Part) -> tuple[tuple[int, int], np.ndarray]:
        """Return the size of a step's samples, and the places of a part of them among those of that size."""
        random = numpy_generator(self.seed, step)
        at = np.searchsorted(self._size_sums, random.random() * self._size_sums[-1])
        size = self._sizes[min(int(at), len(self._sizes) - 1)]
        sums = self._sums[size]
        places = np.searchsorted(sums, random.random(part.total) * sums[-1])[part.start : part.stop]
        return size, np.minimum(places, len(sums) - 1)

    def caption(self, index: int, random: np.random.Generator) -> str:
        """Draw a caption of a sample."""
        sample = self.pool.samples[index]
        if sample.scene >= 0:
            return self.wording.scene(self.scenes.scene(sample.scene), random)
        return self.wording.single(sample, self.rows[sample.row], random)
