"""Which training size an image goes to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sanakit.data.batches.buckets import fill_buckets, training_sizes
from sanakit.data.read.index import Index
from sanakit.errors import SettingsError
from sanakit.images.image import aspect_bins


def index_of(sizes: list[tuple[int, int]]) -> Index:
    heights, widths = np.array(sizes, dtype=np.int32).reshape(-1, 2).T
    return Index(heights, widths, {}, "")


def test_sizes_are_those_that_are_drawn_and_fit_the_autoencoder() -> None:
    assert training_sizes(1024) == aspect_bins(1024)
    assert training_sizes(512) == aspect_bins(512)
    assert training_sizes(1024, square=True) == [(1024, 1024)]
    small = training_sizes(256)
    assert (256, 256) in small
    assert set(small) < set(aspect_bins(256))
    assert all(side % 32 == 0 for size in small for side in size)
    assert training_sizes(256, multiple=8) == aspect_bins(256)


@pytest.mark.parametrize(("resolution", "multiple"), [(500, 32), (16, 32), (0, 32), (512, 0)])
def test_a_resolution_that_does_not_fit_is_refused(resolution: int, multiple: int) -> None:
    with pytest.raises(SettingsError, match="not a multiple of"):
        training_sizes(resolution, multiple=multiple)


@pytest.mark.parametrize("resolution", [256, 512, 1024])
def test_every_picture_is_in_the_bucket_of_the_nearest_ratio_or_left_out_with_a_reason(
    resolution: int,
) -> None:
    """The oracle: the definition, one image at a time."""
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.uniform(math.log(16), math.log(6000), (1500, 2))).astype(int).tolist()
    buckets = fill_buckets(index_of(sizes), resolution)
    where = {int(i): size for size, m in zip(buckets.sizes, buckets.members, strict=True) for i in m}
    assert len(where) == len(buckets) == sum(len(numbers) for numbers in buckets.members)
    assert where.keys() | buckets.left_out.keys() == set(range(len(sizes)))
    assert not where.keys() & buckets.left_out.keys()
    bins = training_sizes(resolution)
    for number, (height, width) in enumerate(sizes):
        distance = {hw: abs(math.log(hw[0] / hw[1]) - math.log(height / width)) for hw in bins}
        chosen = min(distance, key=lambda hw: distance[hw])
        fits = max(chosen[0] / height, chosen[1] / width) <= 1.25 and distance[chosen] <= math.log(2)
        assert (number in where) == fits
        if fits:
            assert distance[where[number]] == pytest.approx(distance[chosen])


def test_what_is_left_out_says_why() -> None:
    sizes = [(512, 512), (300, 300), (400, 40_000), (5000, 500), (0, 0), (410, 410)]
    buckets = fill_buckets(index_of(sizes), 512)
    assert buckets.left_out == {
        1: "300x300 px is too small for 512x512",
        2: "40000x400 px is too narrow: less than half of it would remain at 1024x256",
        3: "500x5000 px is too narrow: less than half of it would remain at 256x1024",
    }
    assert [numbers.tolist() for numbers in buckets.members] == [[0, 5]]
    assert len(fill_buckets(index_of(sizes), 512, enlarge=1)) == 1
    with pytest.raises(SettingsError, match="enlarge"):
        fill_buckets(index_of(sizes), 512, enlarge=0.9)
