"""Animated emoji out of their packages: which, and their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sanakit.errors import DataError
from sanakit.pocket.data import sources
from sanakit.pocket.data.clips import art
from tests.pocket.data.clips.animations import FOX, HAND, animation


def test_only_what_microsoft_released_is_listed_in_each_skin_tone(packages: Path) -> None:
    tarballs = {package: packages / package.file_name for package in art.PACKAGES}
    found = art.list_emojis(tarballs)
    assert {code: (one.emoji.concept, one.tone) for code, one in found.items()} == {
        "1f449": ("backhand index pointing right", ""),
        "1f449-1f3ff": ("backhand index pointing right", "dark skin tone"),
        FOX: ("fox", ""),
        "1f34e": ("red apple", ""),
    }


@pytest.mark.parametrize(
    ("code", "released"),
    [("1f98a", True), (HAND, True), ("1f449-1f3fb", True), ("1f46b", False)]
    + [("1f9d1-200d-1f4bb", False), ("1f468-1f3fb-200d-1f4bb", False), ("1f4bb", True)],
)
def test_releases_differ_by_two_names(code: str, released: bool) -> None:
    assert art.is_released(code, {"1f98a", "1f9d1-200d-1f4bb", "1f468-1f3fb-200d-1f4bb", "1f4bb"}) == released


def test_frames_lie_on_white_and_last_as_long_as_they_say() -> None:
    frames = art.draw_frames(animation("#ff0000"), 64)
    assert frames is not None
    assert frames.shape == (4, 64, 64, 3)  # the second one lasts twice as long
    assert np.array_equal(frames[1], frames[2])
    for frame, left in ((frames[0], 0), (frames[1], 16), (frames[3], 32)):
        wanted = np.full((64, 64, 3), 255, np.uint8)
        wanted[16:32, left : left + 16] = (255, 0, 0)
        assert np.array_equal(frame, wanted)


def test_a_still_file_has_no_frames_and_another_rate_is_refused() -> None:
    assert art.draw_frames(animation("#ff0000", (42,)), 64) is None
    with pytest.raises(DataError, match="lasts 60 ms, which is not a multiple of 42"):
        art.draw_frames(animation("#ff0000", (42, 60)), 64)
    with pytest.raises(DataError, match="cannot be drawn"):
        art.draw_frames(b"no file", 64)


def test_the_packages_are_pinned() -> None:
    assert [package.file_name for package in art.ANIMATED] == [
        f"lobehub-fluent-emoji-anim-{number}-1.0.0.tgz" for number in (1, 2, 3, 4)
    ]
    assert all(len(package.sha512) == 88 and package.licence == "MIT" for package in art.PACKAGES)
    assert sources.EMOJIBASE in art.PACKAGES
