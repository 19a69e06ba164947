"""Limits of what is read, each with its sentence."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from sanakit.clips.facts import MAX_FRAMES, MAX_SECONDS, ClipFacts, check_frames, check_pixels, damaged
from sanakit.errors import SettingsError, SizeError

FACTS = ClipFacts(
    path="cat.mp4",
    format="MP4",
    codec="h264",
    width=64,
    height=48,
    frames=17,
    rate=Fraction(16),
    constant_rate=True,
    seconds=Fraction(17, 16),
    settings={},
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": 8192, "height": 4097}, "cat.mp4 has frames of 8192x4097 px.*scale it down"),
        ({"width": 0}, "frames of 0x48 px"),
        ({"frames": 0}, "holds no frame"),
        ({"frames": MAX_FRAMES + 1}, "more than 1,048,576 frames: cut it"),
        ({"seconds": Fraction(MAX_SECONDS + 1)}, "43,201 seconds, more than the limit of 43,200: cut it"),
    ],
)
def test_a_clip_beyond_a_limit_is_refused(change: dict, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        replace(FACTS, **change)


def test_a_clip_at_the_limits_is_read() -> None:
    replace(FACTS, width=8192, height=4096, frames=MAX_FRAMES, seconds=Fraction(MAX_SECONDS))
    check_pixels("cat.mp4", 1, 1)
    check_frames("cat.mp4", MAX_FRAMES)


def test_too_many_pixels_are_a_matter_of_size() -> None:
    with pytest.raises(SizeError):
        check_pixels("cat.mp4", 10**9, 10**9)


def test_damage_is_told_with_the_file_and_the_reason() -> None:
    assert "cat.mp4 is damaged or cut off (no index)" in str(damaged("cat.mp4", "no index"))
