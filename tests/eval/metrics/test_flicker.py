"""Flicker against its equations in float64, and on clips of which the answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from sanakit.errors import SettingsError
from sanakit.eval.metrics.flicker import difference_error, still_flicker, temporal_flicker
from tests.eval.metrics.scenes import dark_and_light, grey, square, still, with_noise


def differences(clip: np.ndarray) -> np.ndarray:
    return np.diff(clip.astype(np.float64), axis=0)


def still_equation(clip: np.ndarray) -> float:
    """Over every block in a loop, in float64."""
    change = np.abs(differences(clip))
    blocks = [
        change[:, y : y + 8, x : x + 8]
        for y in range(0, clip.shape[1], 8)
        for x in range(0, clip.shape[2], 8)
    ]
    blocks.sort(key=np.mean)
    kept = blocks[: int(np.ceil(len(blocks) / 4))]
    return 100 / 255 * sum(map(np.sum, kept)) / sum(block.size for block in kept)


CLIPS = [
    still(),
    square(),
    dark_and_light(),
    with_noise(grey(5, 37, 50), 9),
    with_noise(square(4) // 2 + 60, 5),
]


@pytest.mark.parametrize("clip", CLIPS)
def test_they_equal_their_equations(clip: np.ndarray) -> None:
    assert temporal_flicker(clip) == pytest.approx(1 - np.abs(differences(clip)).mean() / 255, abs=1e-6)
    assert still_flicker(clip) == pytest.approx(still_equation(clip), abs=1e-6)
    real = square(*clip.shape[:1], height=clip.shape[1], width=clip.shape[2])
    error = np.abs(differences(clip) - differences(real)).sum() / np.abs(differences(real)).sum()
    assert difference_error(clip, real) == pytest.approx(error, abs=1e-6)


def test_a_still_clip_has_none() -> None:
    assert (temporal_flicker(still()), still_flicker(still())) == (1, 0)


def test_dark_and_light_frames_differ_by_a_known_part_of_the_range() -> None:
    assert temporal_flicker(dark_and_light()) == pytest.approx(1 - 51 / 255)
    assert still_flicker(dark_and_light()) == pytest.approx(20)


@pytest.mark.parametrize("size", [1, 4, 20])
def test_noise_of_a_known_size_is_found_at_that_size(size: int) -> None:
    # Two values of n levels, each as likely, differ by (n^2 - 1) / 3n levels in the mean.
    levels = 2 * size + 1
    expected = (levels**2 - 1) / (3 * levels) / 255
    noisy = with_noise(grey(9, 64, 64), size)
    assert 1 - temporal_flicker(noisy) == pytest.approx(expected, rel=0.01)
    assert still_flicker(noisy) / 100 == pytest.approx(expected, rel=0.05)  # the stillest: a little less


def test_what_moves_on_a_still_ground_is_flicker_in_the_whole_but_not_on_still_pixels() -> None:
    assert still_flicker(square()) == 0
    assert temporal_flicker(square()) < 0.97
    shaken = with_noise(square() // 2 + 50, 3)
    still_part = 100 * (7**2 - 1) / (3 * 7) / 255
    assert still_flicker(shaken) == pytest.approx(still_part, rel=0.05)


def test_every_neighbour_counts_as_much_and_none_twice() -> None:
    clip = grey(4)
    clip[3] = 128 + 51  # the last pair alone
    assert temporal_flicker(clip) == pytest.approx(1 - 51 / 255 / 3)
    clip[3], clip[0] = 128, 128 - 51  # the first alone
    assert temporal_flicker(clip) == pytest.approx(1 - 51 / 255 / 3)


def test_a_jump_over_the_whole_range_does_not_wrap() -> None:
    clip = dark_and_light(dark=0, light=255)
    assert temporal_flicker(clip) == 0
    assert still_flicker(clip) == 100


def test_the_error_of_differences_is_zero_for_the_clip_itself_and_one_for_a_still_one() -> None:
    real = square()
    assert difference_error(real, real) == 0
    assert difference_error(np.broadcast_to(real[:1], real.shape), real) == 1
    lighter = (real // 2, real // 2 + 40)
    assert difference_error(*lighter) == 0  # a level of its own is not an error of motion
    assert difference_error(real[::-1], real) > 1


@pytest.mark.parametrize("measure", [temporal_flicker, still_flicker])
def test_one_frame_has_no_neighbour(measure: Callable[[np.ndarray], float]) -> None:
    with pytest.raises(SettingsError, match="needs two, not 1"):
        measure(still(1))


def test_clips_that_do_not_match_and_still_references_are_refused() -> None:
    with pytest.raises(SettingsError, match="7 frames of 64x40 is compared with one of 6 frames"):
        difference_error(square(7), square(6))
    with pytest.raises(SettingsError, match="does not move"):
        difference_error(square(7), np.broadcast_to(square(1), (7, 40, 64, 3)))


def test_windows_of_the_test_itself_are_blocks() -> None:
    clip = with_noise(grey(3, 16, 16), 9)
    windows = sliding_window_view(np.abs(differences(clip)).mean((0, 3)), (8, 8))[::8, ::8]
    assert still_equation(clip) == pytest.approx(windows.mean((2, 3)).min() * 100 / 255)
