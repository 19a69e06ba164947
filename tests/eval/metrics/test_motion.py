"""Motion and its smoothness against their equations in float64, and on clips of known motion."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.errors import DataError, SettingsError
from sanakit.eval.metrics.flicker import temporal_flicker
from sanakit.eval.metrics.motion import REACH, dynamic_degree, motion, smoothness
from tests.eval.metrics.scenes import dark_and_light, grey, square, still, with_noise


def equation(clip: np.ndarray) -> tuple[float, float]:
    """Both figures by loops over blocks and shifts, in float64."""
    frames = clip.astype(np.float64)
    height, width = clip.shape[1:3]

    def at(frame: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        return frame[np.clip(ys, 0, height - 1)[:, None], np.clip(xs, 0, width - 1)]

    def made(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        frame = np.empty_like(a)
        for top in range(0, height, 8):
            for left in range(0, width, 8):
                ys, xs = np.arange(top, min(top + 8, height)), np.arange(left, min(left + 8, width))
                found = min(
                    (
                        np.abs(at(a, ys - dy, xs - dx) - at(b, ys + dy, xs + dx)).sum(),
                        dy * dy + dx * dx,
                        (dy, dx),
                    )
                    for dy in range(-REACH, REACH + 1)
                    for dx in range(-REACH, REACH + 1)
                )
                dy, dx = found[2]
                both = at(a, ys - dy, xs - dx) + at(b, ys + dy, xs + dx)
                frame[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = both / 2
        return frame

    odd = range(1, len(clip) - 1, 2)
    blocks = np.mean([np.abs(frames[t] - made(frames[t - 1], frames[t + 1])).mean() for t in odd])
    mean = np.mean([np.abs(frames[t] - (frames[t - 1] + frames[t + 1]) / 2).mean() for t in odd])
    return float(1 - blocks / 255), float(1 - mean / 255)


CLIPS = {
    "square": square(5, 3, height=21, width=44, side=9),
    "noise": with_noise(grey(3, 19, 17), 40),
    "flat": with_noise(square(4, 1, height=13, width=23, side=5)[:, 8:] // 2 + 50, 9),
}


@pytest.mark.parametrize("name", CLIPS)
def test_smoothness_equals_its_equation(name: str) -> None:
    found = smoothness(CLIPS[name])
    assert (found.blocks, found.mean) == pytest.approx(equation(CLIPS[name]), abs=1e-6)


@pytest.mark.parametrize("speed", [0, 1, 3, REACH])
def test_even_motion_within_reach_is_smooth_by_blocks_and_less_so_by_the_mean(speed: int) -> None:
    found = smoothness(square(5, speed, width=80))
    assert found.blocks == 1
    assert (found.mean == 1) == (speed == 0)


def test_motion_out_of_reach_is_not_followed() -> None:
    assert smoothness(square(5, REACH + 2, width=96)).blocks < 0.99


def test_a_still_clip_is_smooth_and_does_not_move() -> None:
    found = smoothness(still())
    assert (found.blocks, found.mean, motion(still())) == (1, 1, 0)


def test_dark_and_light_frames_miss_by_their_difference() -> None:
    found = smoothness(dark_and_light())
    assert found.blocks == found.mean == pytest.approx(1 - 51 / 255)


def test_shuffled_frames_are_less_smooth() -> None:
    clip = square(9, 2)
    shuffled = clip[np.random.default_rng(3).permutation(9)]
    assert smoothness(shuffled).blocks < smoothness(clip).blocks - 0.01
    assert smoothness(shuffled).mean < smoothness(clip).mean - 0.01


def test_the_left_out_frame_is_compared_and_not_looked_at() -> None:
    clip = grey(3)
    clip[1] = 128 + 51  # a flash that neither neighbour tells of
    assert smoothness(clip).blocks == pytest.approx(1 - 51 / 255)
    beyond = grey(4)
    beyond[3] = 0  # has no right neighbour
    assert smoothness(beyond).blocks == 1


def test_motion_of_a_square_of_known_speed() -> None:
    clip = square(6, 2)
    clip[(clip != 255).any(-1)] = 0  # black: it covers and uncovers two columns of 16 pixels a frame
    assert motion(clip) == pytest.approx(100 * 2 * 2 * 16 / (40 * 64))
    assert motion(clip) == pytest.approx(100 * (1 - temporal_flicker(clip)))


def test_dynamic_degree_is_a_ratio_of_medians() -> None:
    assert dynamic_degree([1, 2, 9], [4, 0, 100]) == 0.5
    assert dynamic_degree([0, 0, 5], [1]) == 0
    assert dynamic_degree([1, 3], [2]) == 1


def test_too_few_frames_or_clips_and_still_references_are_refused() -> None:
    with pytest.raises(SettingsError, match="three, not 2"):
        smoothness(still(2))
    with pytest.raises(SettingsError, match="a clip on each side"):
        dynamic_degree([], [1])
    with pytest.raises(DataError, match="do not move"):
        dynamic_degree([1], [0, 0, 3])
