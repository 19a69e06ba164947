"""The order of a run: nothing twice, nothing lost, nothing remembered."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sanakit.data.batches.order import EMPTY, Order
from sanakit.errors import DataError, SettingsError


def members_of(counts: list[int]) -> list[np.ndarray]:
    """Buckets of that many images, whose numbers lie apart as they do in a real source."""
    numbers = np.random.default_rng(7).permutation(sum(counts)) * 3 + 1
    return [np.sort(part) for part in np.split(numbers, np.cumsum(counts)[:-1])]


@pytest.mark.parametrize("counts", [[1], [7], [5, 0, 64, 1, 33], [100, 3]])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 64, 200])
@pytest.mark.parametrize("seed", [0, 5])
def test_an_epoch_holds_every_picture_exactly_once(counts: list[int], batch_size: int, seed: int) -> None:
    members = members_of(counts)
    order = Order(members, batch_size, seed)
    for epoch in (0, 1, 12):
        first = epoch * order.batches_per_epoch
        batches = [order.batch(first + k) for k in range(order.batches_per_epoch)]
        assert {batch.epoch for batch in batches} == {epoch}
        seen = np.concatenate([batch.images for batch in batches])
        assert sorted(seen[seen != EMPTY]) == sorted(np.concatenate(members))
        for batch in batches:
            assert batch.images.shape == (batch_size,)
            real = batch.images[batch.images != EMPTY]
            assert len(real)
            assert set(real) <= set(members[batch.bucket])
            assert np.array_equal(batch.weights, batch.images != EMPTY)
        # only the last batch of each bucket may have empty places
        assert sum((batch.weights.min() == 0) for batch in batches) <= np.count_nonzero(counts)
    places = order.batches_per_epoch * batch_size
    assert order.empty_share == pytest.approx(1 - sum(counts) / places)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_ranks_and_resumes_share_the_work_without_overlap(world: int, micro: int) -> None:
    """Ranks that are stopped in the middle of an epoch, and go on as another number of ranks."""
    members = members_of([61, 18, 5])
    reference = Order(members, 8, 3)
    length, stopped = reference.batches_per_epoch, reference.batches_per_epoch // 2

    def read(ranks: int, steps: range) -> list[int]:
        span = 8 // ranks // micro
        seen = []
        for rank in range(ranks):
            order = Order(members, 8, 3)  # each process has its own
            for step in steps:
                for part in range(micro):
                    start = (rank * micro + part) * span
                    seen += order.batch(step).images[start : start + span].tolist()
        return [number for number in seen if number != EMPTY]

    other = {1: 4, 2: 1, 4: 2}[world]
    seen = read(world, range(stopped)) + read(other, range(stopped, length))
    assert sorted(seen) == sorted(np.concatenate(members))


def test_epochs_and_seeds_differ_and_asking_twice_or_backwards_does_not() -> None:
    members = members_of([90, 40])
    order = Order(members, 16, 1)
    numbers = [order.batch(k).images.tolist() for k in range(40)]
    assert [order.batch(k).images.tolist() for k in reversed(range(40))] == numbers[::-1]
    assert len({tuple(batch) for batch in numbers}) == 40
    assert Order(members, 16, 2).batch(0).images.tolist() != numbers[0]
    # buckets come mixed, not one after the other
    assert len({tuple(order.batch(e * 9 + k).bucket for k in range(9)) for e in range(6)}) > 3


def test_the_shuffle_is_pinned() -> None:
    """A resumed run counts on these numbers, with any later version of ours or of numpy."""
    order = Order([np.arange(10), np.arange(10, 13)], 4, seed=42)
    assert [order.batch(k).images.tolist() for k in range(4)] == PINNED


PINNED = [[7, 6, 8, 0], [4, 3, 5, 1], [11, 12, 10, -1], [9, 2, -1, -1]]


def test_ten_million_pictures_take_no_time() -> None:
    members = [np.arange(start, 10_000_000, 3) for start in range(3)]
    started = time.process_time()
    order = Order(members, 1024, 0)
    for k in range(100):
        order.batch(k)
    assert time.process_time() - started < 20  # 1 s here; loops over images would take minutes


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Order([np.arange(3)], 0), SettingsError),
        (lambda: Order([np.arange(3)], 1, seed=-1), SettingsError),
        (lambda: Order([np.arange(3)], 1).batch(-1), SettingsError),
        (lambda: Order([np.arange(0)], 1), DataError),
        (lambda: Order([], 1), DataError),
    ],
)
def test_wrong_numbers_are_refused(make, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()
