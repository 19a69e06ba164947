"""One device's part of a global batch, and the random numbers of its samples.

A step's batch is a pure function of (seed, step): it is cut into parts, one per micro-batch and rank. A
sample's random numbers depend only on its place in the batch. So the same run comes out on any number of
ranks, with any number of micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.seeds import sample_generator


@dataclass(frozen=True, slots=True)
class Share:
    """This process's rank among the processes of a training."""

    rank: int = 0  # 0 writes logs, sheets and the result
    world: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """Samples start to stop (not included) of a global batch of `total`."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def weight(self) -> float:
        """Share of the global batch: the weight of the part's mean in the mean over the whole."""
        return len(self) / self.total

    def of(self, total: int) -> Part:
        """Return the same share of a global batch of another size; may hold no sample if that is smaller."""
        return Part(self.start * total // self.total, self.stop * total // self.total, total)


def split(total: int, share: Share, at_once: int | None = None) -> list[Part]:
    """Cut a global batch into the micro-batches of one rank, of nearly equal size.

    total: samples of the global batch. at_once: how many samples a device takes at most; None: its whole
    share. Raises SettingsError when there are fewer samples than ranks.
    """
    if total < share.world:
        raise SettingsError(
            f"A batch of {total} cannot be split over {share.world} processes: raise it (--batch-size) or "
            "start fewer."
        )
    own = -(-total // share.world)
    rounds = -(-own // min(own, at_once or own))
    rounds = min(rounds, total // share.world)  # no part is empty
    cuts = [i * total // (share.world * rounds) for i in range(share.world * rounds + 1)]
    first = share.rank * rounds
    return [Part(cuts[i], cuts[i + 1], total) for i in range(first, first + rounds)]


def sample_noise(seed: int, step: int, part: Part, shape: tuple[int, ...]) -> Tensor:
    """Return normal noise for a part's samples, float32 on the CPU: len(part), then `shape`."""
    rows = [
        torch.randn(shape, generator=sample_generator(seed, step, index), dtype=torch.float32)
        for index in range(part.start, part.stop)
    ]
    return torch.stack(rows)
