"""Which size and length a clip is trained at."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sanakit.clips.sizes import trained_sizes
from sanakit.data.batches.clip_buckets import ClipSampling, fill_clip_buckets
from sanakit.data.read.index import Index
from sanakit.errors import SettingsError

SIZES = tuple((height, width) for width, height in trained_sizes(30))


def index_of(clips: list[tuple[int, int, int, Fraction]], notes: dict[int, str] | None = None) -> Index:
    """Clips of (height, width, frames, seconds)."""
    heights, widths, frames = np.array([clip[:3] for clip in clips], dtype=np.int32).T
    seconds = np.array([clip[3].as_integer_ratio() for clip in clips], dtype=np.int64)
    return Index(heights, widths, {}, "", frames, seconds, notes or {})


def test_every_clip_is_at_the_nearest_ratio_and_the_longest_length_or_left_out_with_a_reason() -> None:
    """The oracle: the definition, one clip at a time."""
    generator = np.random.default_rng(0)
    sides = np.exp(generator.uniform(math.log(200), math.log(3000), (400, 2))).astype(int).tolist()
    frames = generator.integers(1, 200, 400).tolist()
    rates = generator.choice([8, 12, 16, 24, 30], 400).tolist()
    clips = [(h, w, n, Fraction(n, r)) for (h, w), n, r in zip(sides, frames, rates, strict=True)]
    sampling = ClipSampling(sizes=SIZES, lengths=(81, 17, 49), rate=Fraction(16))
    buckets = fill_clip_buckets(index_of(clips), sampling)
    where = {int(i): size for size, m in zip(buckets.sizes, buckets.members, strict=True) for i in m}
    assert where.keys() | buckets.left_out.keys() == set(range(400))
    assert not where.keys() & buckets.left_out.keys()
    assert len({size for size in where.values()}) > 15
    for number, (height, width, count, seconds) in enumerate(clips):
        ratio = math.log(height / width)
        chosen = min(SIZES, key=lambda hw: abs(math.log(hw[0] / hw[1]) - ratio))
        fits = max(chosen[0] / height, chosen[1] / width) <= 1.25
        fits = fits and abs(math.log(chosen[0] / chosen[1]) - ratio) <= math.log(2)
        lengths = [length for length in (17, 49, 81) if length <= math.ceil(seconds * 16)]
        assert (number in where) == (fits and bool(lengths))
        if number in where:
            assert where[number] == (lengths[-1], *chosen)
            assert ("fewer than 16 frames a second" in buckets.notes.get(number, "")) == (
                count < seconds * 16
            )


def test_short_clips_are_left_out_or_repeated_and_told() -> None:
    clips = [(64, 64, 9, Fraction(9, 16)), (64, 64, 8, Fraction(1, 2)), (9, 9, 20, Fraction(2))]
    settings: dict[str, Any] = {"sizes": ((64, 64),), "lengths": (9,), "rate": Fraction(16)}
    buckets = fill_clip_buckets(
        index_of(clips, {0: "Its sound is left out.", 2: "x"}), ClipSampling(**settings)
    )
    assert buckets.sizes == ((9, 64, 64),)
    assert buckets.left_out == {
        1: "8 frames at 16 a second are too few: the shortest length is 9",
        2: "9x9 px is too small for 64x64",
    }
    assert buckets.notes == {0: "Its sound is left out."}
    repeated = fill_clip_buckets(index_of(clips), ClipSampling(**settings, repeat=True))
    assert [numbers.tolist() for numbers in repeated.members] == [[0, 1]]
    assert repeated.notes == {1: "It is too short for 9 frames, and is shown more than once."}


def test_settings_are_put_in_order_or_refused() -> None:
    sampling = ClipSampling(sizes=((64, 32), (32, 64)), lengths=(17, 9, 17), rate=Fraction(8))
    assert (sampling.sizes, sampling.lengths) == (((32, 64), (64, 32)), (9, 17))
    assert ClipSampling(sizes=SIZES, lengths=(81,), rate=Fraction(16)).resolution == 636  # of 768x528
    wrong: list[dict[str, Any]] = [{"sizes": ()}, {"lengths": ()}, {"lengths": (0,)}, {"rate": Fraction(0)}]
    for change in wrong:
        settings: dict[str, Any] = {"sizes": ((32, 32),), "lengths": (9,), "rate": Fraction(16)}
        with pytest.raises(SettingsError):
            ClipSampling(**(settings | change))
