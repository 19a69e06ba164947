"""Made motion of still drawings."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.errors import SettingsError
from sanakit.pocket.data.clips.made import WORDS, make_motion
from sanakit.pocket.data.clips.measure import measure_motion

SIDE = 32


def drawing() -> tuple[np.ndarray, np.ndarray]:
    """A red square whose right half is half as opaque, on white."""
    alpha = np.zeros((64, 64), np.uint8)
    alpha[16:48, 16:32], alpha[16:48, 32:48] = 255, 128
    image = np.full((64, 64, 3), 255, np.uint8)
    image[..., 1:] -= alpha[..., None]
    return image, alpha


@pytest.mark.parametrize("motion", WORDS)
def test_loops_are_smooth_move_as_they_say_and_keep_the_drawing(motion) -> None:
    clip = make_motion(*drawing(), motion, 16, SIDE)
    assert clip.shape == (16, SIDE, SIDE, 3)
    assert (clip[:, 0, 0] == 255).all()
    assert (clip[..., 0] > 250).all()  # nothing but white and red
    steps = np.abs(clip.astype(int) - np.roll(clip, 1, axis=0)).mean((1, 2, 3))
    assert steps[0] < 2.5 * np.median(steps) + 1  # over the seam as elsewhere
    found = measure_motion(clip)
    moved = {"bounce": found.bob > 10, "slide": found.sway > 20, "fade": found.swell > 50}
    assert moved.get(motion, found.change > 1)
    if motion in ("bounce", "slide"):
        colours = clip[..., 1].astype(int).sum((1, 2))
        assert np.ptp(colours) < 0.002 * colours.mean()  # only its place changes
    if motion == "turn":
        quarter = np.rot90(clip[0], -1)  # clockwise
        assert np.abs(clip[4].astype(int) - quarter).mean() < 6
        assert np.abs(clip[4].astype(int) - np.rot90(clip[0])).mean() > 6


def test_fading_goes_to_white_and_back() -> None:
    clip = make_motion(*drawing(), "fade", 8, SIDE)
    assert (clip[4] == 255).all()
    assert clip[0].min() < 5
    assert np.array_equal(clip[2], clip[6])


def test_other_motions_are_refused() -> None:
    with pytest.raises(SettingsError, match="one of bounce, turn, fade, slide"):
        make_motion(*drawing(), "wave", 8, SIDE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="of 1 was requested"):
        make_motion(*drawing(), "turn", 1, SIDE)
