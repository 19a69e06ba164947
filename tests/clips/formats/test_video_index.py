"""The index of a stream: times in order, keys, and which key a frame needs."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest

from sanakit.clips.formats.video_index import VideoIndex, read_index
from sanakit.errors import SettingsError

BASE = Fraction(1, 10)


def packet(pts: int | None, dts: int, key: bool = False, **more: object) -> SimpleNamespace:
    usual = {"size": 9, "duration": 1, "is_corrupt": False, "is_discard": False}
    return SimpleNamespace(pts=pts, dts=dts, is_keyframe=key, **{**usual, **more})


# Decoded as I P B I B P; the frame of time 3 is shown before the second key, which is decoded before it.
GROUPS = [
    *(packet(0, -1, key=True), packet(2, 0), packet(1, 1)),
    *(packet(4, 2, key=True), packet(3, 3), packet(5, 4)),
]


def index(packets: list[SimpleNamespace], frames: int = 0, rate: Fraction | None = None) -> VideoIndex:
    stream = SimpleNamespace(time_base=BASE, average_rate=rate, frames=frames)
    empty = packet(None, 0, size=0)
    return read_index(SimpleNamespace(demux=lambda one: iter([*packets, empty])), stream, "cat.mp4")


def test_frames_are_in_the_order_in_which_they_are_shown() -> None:
    found = index(GROUPS)
    assert found.shown == [0, 1, 2, 3, 4, 5]
    assert found.end == 6
    assert found.keys == [(0, -1), (4, 2)]
    assert [found.number(time) for time in (0, 4, 5, 6, -1, None)] == [0, 4, 5, None, None, None]


def test_a_frame_needs_the_last_key_that_is_shown_before_it() -> None:
    found = index(GROUPS)
    assert [found.key_before(number) for number in range(6)] == [((0, -1), 0)] * 4 + [((4, 2), 4)] * 2


def test_frames_that_the_file_leaves_out_are_not_counted() -> None:
    found = index([packet(-1, -2, key=True, is_discard=True), *GROUPS[1:]])
    assert found.shown == [1, 2, 3, 4, 5]
    assert found.key_before(0) == ((-1, -2), 0)


@pytest.mark.parametrize(
    ("rate", "duration", "end"), [(Fraction(5), 0, 7), (None, 0, 6), (Fraction(5), 4, 9)]
)
def test_the_last_frame_lasts_as_stated_or_as_usual(rate, duration: int, end: int) -> None:
    assert index([*GROUPS[:-1], packet(5, 4, duration=duration)], rate=rate).end == end


@pytest.mark.parametrize(
    ("packets", "frames", "told"),
    [
        (GROUPS, 7, "6 of 7 frames are there"),
        ([], 0, "no frame that can be decoded alone"),
        (GROUPS[1:3], 0, "no frame that can be decoded alone"),
        ([*GROUPS, packet(5, 6)], 0, "two frames have the same time"),
        ([*GROUPS, packet(None, 6)], 0, "packet 7 is incomplete"),
        ([*GROUPS, packet(6, 6, is_corrupt=True)], 0, "packet 7 is incomplete"),
    ],
)
def test_damage_is_told(packets: list, frames: int, told: str) -> None:
    with pytest.raises(SettingsError, match=rf"cat\.mp4 is damaged or cut off \(.*{told}"):
        index(packets, frames)
