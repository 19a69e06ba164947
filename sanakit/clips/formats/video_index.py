"""The index of a video stream: when every frame is shown, and where decoding can begin.

It comes from the packets, which are read once and not decoded: exact counts and times for any container.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sanakit.clips.facts import check_frames, damaged


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoIndex:
    """Times are in units of `base` seconds, as stored in the file.

    shown: of the frames that are shown, ascending. end: when the last one ends. keys: (time shown, time
    decoded) of the frames that depend on no other, ascending.
    """

    shown: list[int]
    end: int
    keys: list[tuple[int, int]]
    base: Fraction

    def number(self, time: int | None) -> int | None:
        """Return the number of the frame of this time, None if none is shown then."""
        if time is None:
            return None
        number = bisect_left(self.shown, time)
        return number if number < len(self.shown) and self.shown[number] == time else None

    def key_before(self, number: int) -> tuple[tuple[int, int], int]:
        """Return the last key shown no later than a frame, and the number of the frame shown at it.

        Frames that are shown from a key on need nothing that lies before it in the file.
        """
        last = bisect_right(self.keys, (self.shown[number], 1 << 63)) - 1
        key = self.keys[max(last, 0)]
        return key, bisect_left(self.shown, key[0])


def read_index(container: Any, stream: Any, path: str) -> VideoIndex:
    """Return the index of a stream, having read the container to its end. Raises SettingsError for damage."""
    shown: list[tuple[int, int]] = []
    keys, packets = [], 0
    for packet in container.demux(stream):
        if not packet.size:  # the last one, which has a decoder empty itself
            continue
        packets += 1
        check_frames(path, packets)
        if packet.is_corrupt or packet.pts is None:
            raise damaged(path, f"packet {packets} is incomplete")
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if not packet.is_discard:
            shown.append((packet.pts, packet.duration or 0))
    if packets < stream.frames:
        raise damaged(path, f"{packets} of {stream.frames} frames are there")
    if not shown or not keys:
        raise damaged(path, "it holds no frame that can be decoded alone")
    shown.sort()
    times = [time for time, _ in shown]
    if len(set(times)) < len(times):
        raise damaged(path, "two frames have the same time")
    base, rate = Fraction(stream.time_base), stream.average_rate
    last = shown[-1][1] or (round(1 / (rate * base)) if rate else 0)
    if not last and len(times) > 1:
        last = times[-1] - times[-2]
    return VideoIndex(shown=times, end=times[-1] + max(last, 1), keys=sorted(keys), base=base)
