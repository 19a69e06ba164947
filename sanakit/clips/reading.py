"""Open any clip: what it is by its content, then its frames, all or a window, at its rate or another one.

    with open_clip("cat.mp4") as clip:
        clip.facts.frames, clip.facts.rate
        window = clip.read(start=32, count=17, rate=8)

A file may be damaged, hostile or huge; every defect becomes a sentence for the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO, Protocol

import numpy as np

from sanakit.clips.clip import VideoClip
from sanakit.clips.counts import as_rate, nearest_frames, resampled_count
from sanakit.clips.facts import MAX_BYTES, ClipFacts
from sanakit.clips.formats.animation import is_animated
from sanakit.clips.formats.container import READ, VIDEO, format_of
from sanakit.clips.formats.folder import FolderFrames, is_frame_folder
from sanakit.clips.formats.read_images import open_images
from sanakit.clips.formats.read_video import VideoFrames
from sanakit.errors import SettingsError
from sanakit.reading import check_file
from sanakit.wording import counted


class FrameReader(Protocol):
    """The reader of one kind of file.

    ticks: when each frame is shown, ascending from 0, and end: when the last one ends, in units of base
    seconds. decode: yields the frames of ascending numbers, H W 3, uint8, sRGB, upright, on white.
    """

    facts: ClipFacts
    end: int
    base: Fraction

    @property
    def ticks(self) -> Sequence[int]: ...  # noqa: D102
    def decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class ClipFile:
    """An open clip. Use it in a `with`, or call `close`.

    start, count, rate of its methods: the window. rate: frames a second to take; the frame nearest in time
    stands for each, so that frames are left out or repeated. None: every frame, as stored. start: the first
    frame of the window, counted at that rate. count: None for all from there on.
    """

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self.facts = reader.facts

    def __enter__(self) -> ClipFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def count(self, rate: Fraction | int | float | str | None = None) -> int:
        """Return how many frames the clip has at a rate."""
        if rate is None:
            return self.facts.frames
        return resampled_count(self.facts.seconds, as_rate(rate))

    def numbers(
        self, start: int = 0, count: int | None = None, rate: Fraction | int | float | str | None = None
    ) -> list[int]:
        """Return the numbers of the stored frames in a window. Raises SettingsError outside the clip."""
        there = self.count(rate)
        count = there - start if count is None else count
        if start < 0 or count < 1 or start + count > there:
            at = "" if rate is None else f" at {as_rate(rate)} frames a second"
            raise SettingsError(
                f"{self.facts.path} has the frames 0 to {there - 1}{at}, not {count} from {start} on: choose "
                "another window."
            )
        window = range(start, start + count)
        if rate is None:
            return list(window)
        return nearest_frames(self._reader.ticks, self._reader.base, as_rate(rate), window)

    def frames(
        self, start: int = 0, count: int | None = None, rate: Fraction | int | float | str | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the frames of a window one by one: H W 3, uint8. Raises SettingsError."""
        return self._reader.decode(self.numbers(start, count, rate))

    def read(
        self, start: int = 0, count: int | None = None, rate: Fraction | int | float | str | None = None
    ) -> VideoClip:
        """Return a window in memory. Raises SettingsError, also for more than MAX_BYTES."""
        facts, numbers = self.facts, self.numbers(start, count, rate)
        size = len(numbers) * facts.width * facts.height * 3
        if size > MAX_BYTES:
            raise SettingsError(
                f"{facts.path} would take {size / 2**30:.1f} GB of memory, more than {MAX_BYTES >> 30}: read "
                "a shorter window, or take its frames one by one."
            )
        frames = np.empty((len(numbers), facts.height, facts.width, 3), np.uint8)
        for place, frame in enumerate(self._reader.decode(numbers)):
            frames[place] = frame
        notes = [*facts.notes]
        if rate is None and not facts.constant_rate:
            notes.append(
                f"Its frames come at changing intervals; {float(facts.rate):.5g} a second is the mean."
            )
        if rate is not None and as_rate(rate) != facts.rate:
            repeated = len(numbers) - len(set(numbers))
            left_out = numbers[-1] - numbers[0] + 1 - len(set(numbers))
            notes.append(
                f"Taken at {as_rate(rate)} frames a second of {float(facts.rate):.5g}, each nearest in time: "
                f"{counted(left_out, 'frame is', 'frames are')} left out, {repeated} repeated."
            )
        return VideoClip(
            frames=frames,
            rate=facts.rate.limit_denominator(1001) if rate is None else as_rate(rate),
            settings=facts.settings,
            notes=tuple(notes),
        )


def open_clip(
    path: str | os.PathLike[str], *, folder_rate: Fraction | int | float | str | None = None, threads: int = 1
) -> ClipFile:
    """Open a file or a folder of frames by its content, whatever it is called.

    folder_rate: frames a second of a folder without clip.json. threads: of a video's decoder.
    Raises SettingsError, SizeError, and MissingExtraError for videos without PyAV.
    """
    name = os.fspath(path)
    rate = None if folder_rate is None else as_rate(folder_rate)
    try:
        check_file(path)
        if os.path.isdir(path):
            return ClipFile(FolderFrames(name, rate))
        if rate is not None:
            raise SettingsError(f"{name} states its own rate: leave the rate of a folder out.")
        file = open(path, "rb")  # noqa: SIM115 - the reader closes it
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise _unreadable(error, name) from None
    return open_clip_content(file, name, threads=threads)


def open_clip_content(file: BinaryIO, name: str, *, threads: int = 1) -> ClipFile:
    """Open what an open file holds, by its content; closing the clip closes the file. Raises as `open_clip`.

    name: of the file, for messages.
    """
    try:
        return ClipFile(_reader_of(file, name, threads))
    except (OSError, ValueError) as error:
        raise _unreadable(error, name) from None


def describe_clip(path: str | os.PathLike[str]) -> ClipFacts | None:
    """Return the facts of a clip; None for a place that holds something else, and for still images.

    Raises as `open_clip` does, for a clip that is damaged.
    """
    try:
        check_file(path)
        if os.path.isdir(path):
            if not is_frame_folder(path):
                return None
        else:
            with open(path, "rb") as file:
                kind = format_of(file)
                if kind is None or (kind not in VIDEO and not is_animated(file, kind, os.fspath(path))):
                    return None
    except (OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        return None
    with open_clip(path) as clip:
        return clip.facts


def _unreadable(error: OSError | ValueError, name: str) -> SettingsError:
    """Return a defect as a sentence on the file; one that is a sentence already as it is."""
    if isinstance(error, SettingsError):
        return error
    reason = getattr(error, "strerror", None) or error
    return SettingsError(f"{name} cannot be read ({reason}): use {READ}.")


def _reader_of(file: BinaryIO, path: str, threads: int) -> FrameReader:
    """Return the reader of a file, which closes it, as does an error here."""
    try:
        kind = format_of(file)
        if kind in VIDEO:
            return VideoFrames(file, kind, path, threads)
        return open_images(file, kind, path)
    except BaseException:
        file.close()
        raise
