"""How many frames a clip may have."""

from __future__ import annotations

import pytest

from sanakit.errors import SizeError
from sanakit.models.video.frame_rule import FrameRule


@pytest.mark.parametrize(("step", "frames", "latents"), [(4, 1, 1), (4, 81, 21), (8, 17, 3), (1, 6, 6)])
def test_frames_and_latents_are_told_from_each_other(step: int, frames: int, latents: int):
    assert FrameRule(step).latents(frames) == latents
    assert FrameRule(step).frames(latents) == frames


@pytest.mark.parametrize(
    ("frames", "nearest"), [(-3, "1 or 5"), (0, "1 or 5"), (4, "1 or 5"), (18, "17 or 21"), (80, "77 or 81")]
)
def test_another_number_is_refused_with_its_neighbours(frames: int, nearest: str):
    with pytest.raises(SizeError, match=f"{nearest} frames"):
        FrameRule(4).latents(frames)
    with pytest.raises(SizeError, match="at least 1"):
        FrameRule(4).frames(0)
