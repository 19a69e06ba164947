"""The images of global batch k: a pure function of k, the seed and the buckets.

A batch comes from one bucket. Within an epoch every image comes exactly once; images are shuffled within
their bucket, and the buckets' batches among each other, again each epoch. Where a bucket's images do not
fill its last batch, the places left are empty: number -1, weight 0. There is no state: to resume is to ask
for batch k, and ranks and micro-batches take slices of it.
Shapes: B the global batch, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sanakit.errors import DataError, SettingsError
from sanakit.seeds import permutation

EMPTY = -1


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One batch of the whole run. bucket: its number. images: B numbers of images, EMPTY for none."""

    epoch: int
    bucket: int
    images: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Return B float32: 1 for an image, 0 for an empty place."""
        return (self.images != EMPTY).astype(np.float32)


class Order:
    """The order of images in a run.

    members: of each bucket, the numbers of its images.   batch_size: B, of all ranks and micro-batches.
    Raises DataError without images, SettingsError for a batch size or seed out of range.
    """

    def __init__(self, members: Sequence[np.ndarray], batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size = {batch_size}: a batch holds at least one image.")
        if not 0 <= seed < 2**32:
            raise SettingsError(f"seed = {seed}: give a whole number from 0 to {2**32 - 1}.")
        if not sum(map(len, members)):
            raise DataError("There are no images to train on.")
        self.members, self.batch_size, self.seed = tuple(members), batch_size, seed
        counts = [-(-len(numbers) // batch_size) for numbers in members]
        self._ends = np.cumsum(counts)
        self.batches_per_epoch = int(self._ends[-1])
        self.images_per_epoch = sum(map(len, members))
        # The current epoch's permutations, which are costly for millions of images and always the same.
        self._memo: tuple[int, dict[int, np.ndarray]] = (-1, {})

    @property
    def empty_share(self) -> float:
        """Return the share of empty places in an epoch's batches, in [0, 1)."""
        return 1 - self.images_per_epoch / (self.batches_per_epoch * self.batch_size)

    def batch(self, number: int) -> GlobalBatch:
        """Return global batch `number`, counted from 0 over all epochs. Raises SettingsError below 0."""
        if number < 0:
            raise SettingsError(f"Batch {number} does not exist: batches count from 0.")
        epoch, place = divmod(number, self.batches_per_epoch)
        place = int(self._permutation(epoch, len(self.members), self.batches_per_epoch)[place])
        bucket = int(np.searchsorted(self._ends, place, side="right"))
        start = (place - int(self._ends[bucket - 1] if bucket else 0)) * self.batch_size
        members = self.members[bucket]
        chosen = self._permutation(epoch, bucket, len(members))[start : start + self.batch_size]
        images = np.full(self.batch_size, EMPTY, dtype=np.int64)
        images[: len(chosen)] = members[chosen]
        return GlobalBatch(epoch, bucket, images)

    def _permutation(self, epoch: int, which: int, length: int) -> np.ndarray:
        """Return the shuffle of bucket `which`, or, numbered after the last bucket, of the batches."""
        if self._memo[0] != epoch:
            self._memo = (epoch, {})
        known = self._memo[1]
        if which not in known:
            known[which] = permutation(self.seed, epoch, which, length)
        return known[which]


def repeated(members: Sequence[np.ndarray], repeats: np.ndarray | None) -> list[np.ndarray]:
    """Return each bucket's numbers with every image as often as it is to come in an epoch.

    repeats: by number, whole numbers of at least 1; None: once.
    """
    if repeats is None:
        return list(members)
    return [np.repeat(numbers, repeats[numbers]) for numbers in members]


def evenly(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the numbers, evenly spread over them; all where there are no more."""
    return numbers[np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(np.int64)]
