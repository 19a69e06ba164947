"""How much moves in a clip."""

from __future__ import annotations

import numpy as np

from sanakit.pocket.data.clips.measure import measure_motion
from sanakit.pocket.words.motion import Motion


def squares(places: list[tuple[int, int, int]]) -> np.ndarray:
    """Black squares on white, 20 px: (top, left, side) of each frame."""
    frames = np.full((len(places), 20, 20, 3), 255, np.uint8)
    for frame, (top, left, side) in zip(frames, places, strict=True):
        frame[top : top + side, left : left + side] = 0
    return frames


def test_a_square_that_stands_still_does_not_move() -> None:
    assert measure_motion(squares([(3, 4, 5)] * 4)) == Motion(change=0, bob=0, sway=0, swell=0)


def test_travel_is_measured_in_parts_of_the_side_and_change_round_the_loop() -> None:
    # 3 px down and back: of 400 pixels 2 * 4 * 3 change at the move, and again over the seam
    found = measure_motion(squares([(2, 4, 4), (5, 4, 4)]))
    assert found == Motion(change=6.0, bob=15.0, sway=0.0, swell=0.0)
    assert measure_motion(squares([(2, 4, 4), (2, 8, 4)])).sway == 20.0


def test_growth_is_measured_over_the_mean_area() -> None:
    found = measure_motion(squares([(8, 8, 2), (7, 7, 4)]))  # 4 and 16 pixels
    assert (found.swell, found.bob, found.sway) == (120.0, 0.0, 0.0)


def test_an_empty_frame_has_no_middle() -> None:
    found = measure_motion(squares([(2, 4, 4), (0, 0, 0)]))
    assert (found.bob, found.sway, found.swell) == (0.0, 0.0, 200.0)
    assert measure_motion(squares([(0, 0, 0)] * 2)) == Motion(change=0, bob=0, sway=0, swell=0)
