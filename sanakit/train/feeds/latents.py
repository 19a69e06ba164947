"""A feed of latents in memory, each with alternative captions.

Shapes: N latents, B samples of a part, C h w a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sanakit.seeds import numpy_generator
from sanakit.train.feeds.feed import Shown
from sanakit.train.parts import Part


class LatentFeed:
    """Draws latents by their weights, each with one of its captions.

    latents: N C h w, scaled. captions: N lists of alternatives. weights: N, how often each is drawn.
    seed: of all that is drawn.
    """

    def __init__(
        self, latents: Tensor, captions: Sequence[Sequence[str]], weights: Tensor, *, seed: int = 0
    ) -> None:
        self.latents, self.captions, self.seed = latents, captions, seed
        self.weights = weights
        self._sums = weights.double().cumsum(0).numpy()

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Do nothing: latents and captions are in memory."""

    def shown(self, step: int, part: Part) -> Shown:
        """Draw a part of a step's batch."""
        drawn, choices = self.drawn(step, part)
        numbers: list[int] = drawn.tolist()
        alternatives = [self.captions[i] for i in numbers]
        return Shown(
            self.latents[torch.from_numpy(drawn).to(self.latents.device)],
            [captions[int(u * len(captions))] for captions, u in zip(alternatives, choices, strict=True)],
        )

    def drawn(self, step: int, part: Part) -> tuple[np.ndarray, list[float]]:
        """Return the numbers of a part's latents, B, and for each what picks its caption, in [0, 1)."""
        random = numpy_generator(self.seed, step)
        own = slice(part.start, part.stop)
        drawn = self._sums.searchsorted(random.random(part.total) * self._sums[-1], side="right")[own]
        return np.minimum(drawn, len(self._sums) - 1), random.random(part.total)[own].tolist()

    def most_drawn(self, count: int) -> tuple[Tensor, list[str]]:
        """Return the latents that are drawn most often, at most `count`, and the first caption of each."""
        chosen: list[int] = self.weights.argsort(descending=True, stable=True)[:count].tolist()
        return self.latents[chosen], [self.captions[i][0] for i in chosen]


class PathFeed(LatentFeed):
    """Draws latents of clips along camera paths, and their cameras with them.

    cameras: N F 20, as `Shown` has them. All else as for `LatentFeed`.
    """

    def __init__(
        self,
        latents: Tensor,
        captions: Sequence[Sequence[str]],
        weights: Tensor,
        cameras: Tensor,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(latents, captions, weights, seed=seed)
        self.cameras = cameras

    def shown(self, step: int, part: Part) -> Shown:
        """Draw a part of a step's batch."""
        drawn, _ = self.drawn(step, part)
        return replace(super().shown(step, part), cameras=self.cameras[torch.from_numpy(drawn)])
