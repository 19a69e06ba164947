"""Write a clip frame by frame, whole or not at all, in constant memory.

    with writing("cat.mp4", width=832, height=480, rate=16, settings={"prompt": "a cat"}) as writer:
        for frame in frames:     # H W 3, uint8
            writer.add(frame)

The suffix says the format: .mp4, .webm, .webp, .gif; a name without a suffix becomes a folder of PNG frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from sanakit.clips.counts import as_rate
from sanakit.clips.facts import MAX_FRAMES, MAX_SECONDS, check_pixels
from sanakit.clips.formats.folder import check_replaceable, write_folder
from sanakit.clips.formats.plan import AddFrame, WritePlan
from sanakit.clips.formats.pyav import load_av
from sanakit.clips.formats.write_images import write_gif, write_webp
from sanakit.clips.formats.write_video import check_mp4, write_mp4, write_webm
from sanakit.clips.settings import settings_text
from sanakit.errors import OutputError, SanaError, SettingsError
from sanakit.images.formats import check_sides
from sanakit.whole import replaced

SUFFIXES = (".mp4", ".webm", ".webp", ".gif")
VIDEOS = (".mp4", ".webm")  # that need PyAV
QUALITY = 80  # of MP4, WebM and WebP
_WRITERS: dict[str, Callable[[Path, WritePlan], AbstractContextManager[AddFrame]]] = {
    ".mp4": write_mp4,
    ".webm": write_webm,
    ".webp": write_webp,
    ".gif": write_gif,
    "": write_folder,
}
_FASTEST = {".gif": 50, ".webp": 90}  # frames a second: browsers slow down what lasts 10 ms or less
_NO_QUALITY = {".gif": "GIF", "": "A folder of PNG frames"}
_MOST_SIDE = {".mp4": 16384, ".webm": 16384, ".gif": 65535, "": 2**25, ".webp": 16383}  # pixels


@dataclass(kw_only=True)
class ClipWriter:
    """The writer of a clip, which takes its frames.

    path: where the clip will be. notes: sentences on what the format cannot hold exactly.
    """

    path: Path
    plan: WritePlan
    notes: tuple[str, ...]
    frames: int = 0  # so far
    _add: AddFrame = field(repr=False)

    def add(self, frame: np.ndarray) -> None:
        """Write the next frame: H W 3, uint8, sRGB. Raises SettingsError, or OutputError for a full disk."""
        shape = (self.plan.height, self.plan.width, 3)
        if frame.dtype != np.uint8 or frame.shape != shape:
            raise SettingsError(
                f"Frame {self.frames + 1} came as {frame.dtype} of shape {frame.shape}: give uint8 of shape "
                f"{shape}."
            )
        if self.frames >= MAX_FRAMES or self.frames > MAX_SECONDS * self.plan.rate:
            raise SettingsError(
                f"{self.path} has {self.frames:,} frames, as many as one file may have: begin another one."
            )
        with _explained(self.path):
            self._add(np.ascontiguousarray(frame))
        self.frames += 1


@contextmanager
def writing(
    path: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    rate: Fraction | int | float | str,
    settings: Mapping[str, str | int | float] | None = None,
    quality: int | None = None,
) -> Iterator[ClipWriter]:
    """Yield the writer of a clip; the file appears, or is replaced, when the block ends without an error.

    width, height: pixels; even ones for MP4. rate: frames a second. settings: are kept in the file.
    quality: 1 to 100, of MP4, WebM and WebP (80); 100 makes a WebP lossless. GIF and PNG have none.
    Raises SettingsError, SizeError, OutputError, and MissingExtraError for MP4 and WebM without PyAV.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    plan = _plan(path, width, height, as_rate(rate), settings or {}, quality)
    _check_place(path)
    outside: list[BaseException] = []  # an error of the caller's block is passed on as it is
    try:
        with replaced(path) as partial, _WRITERS[suffix](partial, plan) as add:
            writer = ClipWriter(path=path, plan=plan, notes=_notes(suffix, plan), _add=add)
            try:
                yield writer
            except BaseException as error:
                outside.append(error)
                raise
            if not writer.frames:
                raise SettingsError(f"{path} would hold no frame: add one at least.")
    except (OSError, ValueError) as error:
        if error in outside or isinstance(error, SanaError):
            raise
        raise _unwritable(path, error) from None


def check_writable(
    path: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    rate: Fraction | int | float | str,
    settings: Mapping[str, str | int | float] | None = None,
) -> None:
    """Raise what `writing` would raise at its beginning, before there are frames."""
    path = Path(path).expanduser()
    _plan(path, width, height, as_rate(rate), settings or {}, None)
    _check_place(path)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} is not writable: choose another one.")
    if path.suffix.lower() in VIDEOS:
        load_av()


def _plan(
    path: Path, width: int, height: int, rate: Fraction, settings: Mapping, quality: int | None
) -> WritePlan:
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise OutputError(
            f"{path} cannot be written: end the name in {', '.join(SUFFIXES)}, or in none for a folder."
        )
    if quality is not None and suffix in _NO_QUALITY:
        raise SettingsError(f"{_NO_QUALITY[suffix]} has no quality to set: leave it out, or choose .webp.")
    quality = QUALITY if quality is None else quality
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise SettingsError(f"The quality {quality!r} is not a whole number from 1 to 100.")
    if rate > _FASTEST.get(suffix, rate):
        raise SettingsError(
            f"{suffix[1:].upper()} shows at most {_FASTEST[suffix]} frames a second, not {float(rate):g}: "
            "lower the rate, or choose .mp4."
        )
    check_pixels(str(path), width, height)
    if suffix == ".webp":
        check_sides("WEBP", width, height)
    elif max(width, height) > _MOST_SIDE[suffix]:
        raise SettingsError(f"{suffix[1:]} holds sides of {_MOST_SIDE[suffix]} px at most: scale it down.")
    if suffix == ".mp4":
        check_mp4(width, height)
    return WritePlan(
        width=width,
        height=height,
        rate=rate,
        quality=quality,
        settings=settings,
        comment=settings_text(settings, rate),
    )


def _check_place(path: Path) -> None:
    if path.suffix:
        if os.path.isdir(path):
            raise OutputError(f"{path} is a folder: give the name of a file.")
    else:
        check_replaceable(path)
    if not os.path.isdir(path.parent):
        raise OutputError(f"The folder {path.parent} does not exist: create it first or choose another one.")


def _notes(suffix: str, plan: WritePlan) -> tuple[str, ...]:
    parts = {".gif": 100, ".webp": 1000}.get(suffix)
    notes = []
    if parts and (parts / plan.rate).denominator != 1:
        longer = -(-parts // plan.rate)
        notes.append(
            f"{suffix[1:].upper()} counts time in 1/{parts} s, so frames last {longer - 1} or {longer} of "
            f"them; on average there are {plan.rate} a second."
        )
    if suffix == ".gif":
        notes.append("GIF holds 256 colours a frame: other colours are rounded to the nearest of them.")
    return tuple(notes)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"{path} cannot be written ({reason}): check the path, its permissions and the free space."
    )
