"""Frame counts, rates and times are exact, and nothing is rounded in silence."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sanakit.clips.counts import (
    as_rate,
    frames_for,
    natural_key,
    nearest_counts,
    nearest_frames,
    rate_of,
    resampled_count,
)
from sanakit.errors import SettingsError

NTSC = Fraction(24000, 1001)


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (16, Fraction(16)),
        ("24000/1001", NTSC),
        (23.976, NTSC),
        ("23.98", NTSC),
        ("29.97", Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(1, 3), Fraction(1, 3)),
        ("0.01", Fraction(1, 100)),
    ],
)
def test_a_rate_is_an_exact_fraction(given, rate: Fraction) -> None:
    assert as_rate(given) == rate


@pytest.mark.parametrize(
    "given", ["", "fast", "1/0", "-3", 0, 1001, "nan", float("inf"), "1e9999999999", "999999999/999999998"]
)
def test_a_rate_that_no_file_can_hold_is_refused(given) -> None:
    with pytest.raises(SettingsError, match="The rate"):
        as_rate(given)


@pytest.mark.parametrize("compression", [1, 4, 8])
def test_valid_counts_are_those_that_end_a_latent(compression: int) -> None:
    for frames in range(1, 60):
        near = nearest_counts(frames, compression)
        assert all((count - 1) % compression == 0 for count in near)
        assert (near == (frames,)) == ((frames - 1) % compression == 0)
        assert min(near) <= frames <= max(near)


@pytest.mark.parametrize(
    ("seconds", "rate", "compression", "frames"),
    [
        (5, 16, 4, 81),
        (1, 16, 4, 17),
        ("0.5", 16, 8, 9),
        (0, 16, 4, 1),
        (60, 16, 4, 961),
        (Fraction(1, 3), 24, 8, 9),
    ],
)
def test_whole_latents_of_seconds_are_exact(seconds, rate, compression: int, frames: int) -> None:
    assert frames_for(seconds, rate, compression) == (frames, "")


@pytest.mark.parametrize(("seconds", "frames"), [(1.1, 17), (1.124, 17), (1.125, 21), (1.2, 21), (0.1, 1)])
def test_seconds_are_rounded_to_the_nearest_count_and_told(seconds: float, frames: int) -> None:
    """18 + 1 frames lie half way between 17 and 21."""
    count, told = frames_for(seconds, 16, 4)
    assert count == frames
    words = "1 frame is" if frames == 1 else f"{frames} frames are"
    assert told.endswith(f": {words} taken, {(frames - 1) / 16:.4g} s.")


@pytest.mark.parametrize("seconds", [-1, "long", float("nan"), "1e99999999"])
def test_seconds_that_are_none_are_refused(seconds) -> None:
    with pytest.raises(SettingsError, match="not a number of seconds"):
        frames_for(seconds, 16, 4)


@pytest.mark.parametrize("parts", [100, 1000, 24000])
@pytest.mark.parametrize("rate", [Fraction(16), Fraction(24), NTSC, Fraction(30000, 1001), Fraction(25, 2)])
def test_a_rate_is_found_again_in_rounded_times(rate: Fraction, parts: int) -> None:
    times = [round(number * parts / rate) for number in range(200)]
    assert rate_of(times[:-1], times[-1], Fraction(1, parts), [Fraction(31), rate]) == (rate, True)
    if parts > 100:  # in hundredths, 200 frames at 29.97 and at 30 have the same times
        assert rate_of(times[:-1], times[-1], Fraction(1, parts)) == (rate, True)


def test_equal_gaps_are_taken_as_they_are() -> None:
    assert rate_of([0, 3, 6], 9, Fraction(1, 100)) == (Fraction(100, 3), True)
    assert rate_of([0], 4, Fraction(1, 100)) == (Fraction(25), True)


def test_changing_gaps_have_a_mean_rate() -> None:
    assert rate_of([0, 10, 100, 110], 200, Fraction(1, 100)) == (Fraction(2), False)


def test_a_hint_that_does_not_fit_is_not_believed() -> None:
    assert rate_of([0, 4, 8, 12], 16, Fraction(1, 100), [Fraction(10)]) == (Fraction(25), True)


def test_the_nearest_frame_in_time_stands_for_each() -> None:
    ticks = [0, 40, 100, 160]  # ms; the times of 16 frames a second are 0, 62.5, 125, 187.5
    assert nearest_frames(ticks, Fraction(1, 1000), Fraction(16), range(4)) == [0, 1, 2, 3]
    assert nearest_frames([0, 50, 100], Fraction(1, 1000), Fraction(40), range(4)) == [0, 0, 1, 1], (
        "ties: earlier"
    )


@pytest.mark.parametrize("rate", [Fraction(8), NTSC, Fraction(60)])
def test_resampling_a_clip_covers_all_of_its_time(rate: Fraction) -> None:
    base, end = Fraction(1, 24), 100
    count = resampled_count(end * base, rate)
    assert (count - 1) / rate < end * base <= count / rate
    numbers = nearest_frames(range(end), base, rate, range(count))
    assert all(abs(n * base - k / rate) <= base / 2 for k, n in enumerate(numbers) if n < end - 1)
    assert resampled_count(end * base, Fraction(24)) == end


def test_names_of_frames_are_in_the_order_of_their_last_number() -> None:
    names = ["f10.png", "f9.png", "b-2-0001.png", "a.png"]
    assert sorted(names, key=natural_key) == ["a.png", "b-2-0001.png", "f9.png", "f10.png"]
