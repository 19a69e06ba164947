"""Scan every image or clip of a source once: its size, or its defect. The result is kept in a file.

Only headers are read, by threads: a look at an image costs its file's first kilobytes. Of a clip all packets
are read, for exact counts and times, and its first frame is decoded. Defects that this does not show, such as
a truncated image, appear in training (see `loader`).
Shapes: N samples of the source.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from sanakit.clips.facts import ClipFacts
from sanakit.data.medium import CLIPS, Medium
from sanakit.data.read.decode import image_size
from sanakit.data.read.source import Source, clip_defect
from sanakit.errors import DataError, SettingsError
from sanakit.whole import written_whole

FORMAT = 3  # of the file; raised when what is in it, or what makes an image broken, changes
THREADS = 8
_CHUNK = 64  # images a thread looks at before it reports
_Found = tuple[int, int] | ClipFacts | str


@dataclass(frozen=True, slots=True)
class Index:
    """The sizes of a source's images or clips, or why they are broken.

    heights, widths: N, int32, pixels of the upright image, 0 where it is broken.   broken: number of the
    image -> what is wrong with it.   fingerprint: of the source.   frames: N, int32, of clips, as stored;
    None: images.   seconds: N 2, int64, how long clips last, as fractions.   notes: number of the clip ->
    what reading it leaves out.
    """

    heights: np.ndarray
    widths: np.ndarray
    broken: dict[int, str]
    fingerprint: str
    frames: np.ndarray | None = None
    seconds: np.ndarray | None = None
    notes: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.heights)

    def without(self, numbers: np.ndarray) -> Index:
        """Return an index in which these images have no size: they get into no bucket."""
        heights, widths = self.heights.copy(), self.widths.copy()
        heights[numbers] = widths[numbers] = 0
        return replace(self, heights=heights, widths=widths)


def scan(
    source: Source,
    cache: str | os.PathLike[str] | None = None,
    *,
    threads: int = THREADS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Index:
    """Look at every image of a source, or read what an earlier scan of the same images wrote.

    cache: file that keeps the result, rebuilt when images were added, removed or changed; None: not kept.
    progress: called with (what is being done, how many are done, how many there are).
    Raises DataError where the cache cannot be written; broken images raise nothing.
    """
    report = progress or (lambda what, done, total: None)
    report("looking for changes", 0, len(source))
    fingerprint = source.fingerprint()
    path = None if cache is None else Path(cache).expanduser()
    known = None if path is None else _read(path, fingerprint, len(source), source.medium)
    if known is not None:
        return known
    if path is not None:
        _check_place(path)
    heights, widths, frames = np.zeros((3, len(source)), dtype=np.int32)
    seconds = np.tile(np.array([0, 1], dtype=np.int64), (len(source), 1))
    broken: dict[int, str] = {}
    notes: dict[int, str] = {}
    done = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of huge images and EXIF data; we count them
        for start, sizes in _look(source, threads):
            for index, size in enumerate(sizes, start):
                if isinstance(size, str):
                    broken[index] = size
                elif isinstance(size, ClipFacts):
                    heights[index], widths[index], frames[index] = size.height, size.width, size.frames
                    seconds[index] = size.seconds.as_integer_ratio()
                    if size.notes:
                        notes[index] = " ".join(size.notes)
                else:
                    heights[index], widths[index] = size
            done += len(sizes)
            report(f"looking at {source.medium.plural}", done, len(source))
    index = Index(heights, widths, dict(sorted(broken.items())), fingerprint)
    if source.medium is CLIPS:
        index = replace(index, frames=frames, seconds=seconds, notes=dict(sorted(notes.items())))
    if path is not None:
        _write(path, index, source.medium)
    return index


def _look(source: Source, threads: int) -> Iterator[tuple[int, list[_Found]]]:
    """Yield chunks in order: the first image's number, then height and width of each, or its defect.

    Of a clip its facts in place of height and width.
    """

    def look(start: int) -> tuple[int, list[_Found]]:
        return start, [_size(source, index) for index in range(start, min(start + _CHUNK, len(source)))]

    with ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        waiting = deque()
        starts = iter(range(0, len(source), _CHUNK))
        # a few at a time, so that millions of images are not millions of waiting tasks
        for start in islice(starts, 4 * threads):
            waiting.append(pool.submit(look, start))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(look, start) for start in islice(starts, 1))


def _size(source: Source, index: int) -> _Found:
    try:
        if source.medium is CLIPS:
            with source.clip(index) as clip:
                return clip.facts
        with source.open(index) as file:
            return image_size(file)
    except DataError as error:
        return str(error)
    except SettingsError as error:
        return clip_defect(error, source.key(index))
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _read(path: Path, fingerprint: str, count: int, medium: Medium) -> Index | None:
    """Return an earlier scan, or None: there is none, or it is of other images, or the file is damaged."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            index = Index(
                file["heights"],
                file["widths"],
                {int(number): reason for number, reason in about["broken"].items()},
                about["fingerprint"],
            )
            if medium is CLIPS:
                notes = {int(number): note for number, note in about["notes"].items()}
                index = replace(index, frames=file["frames"], seconds=file["seconds"], notes=notes)
        fits = about["format"] == FORMAT and about["medium"] == medium.name
        fits = fits and index.fingerprint == fingerprint
        return index if fits and index.heights.shape == index.widths.shape == (count,) else None
    except Exception:  # a damaged zip file raises anything from zlib.error to KeyError; it is only a cache
        return None


def _write(path: Path, index: Index, medium: Medium) -> None:
    about = {"format": FORMAT, "medium": medium.name, "fingerprint": index.fingerprint}
    about |= {"broken": index.broken, "notes": index.notes}
    sizes = {"heights": index.heights, "widths": index.widths, "about": np.array(json.dumps(about))}
    if index.frames is not None and index.seconds is not None:
        sizes |= {"frames": index.frames, "seconds": index.seconds}
    try:
        with written_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **sizes)  # pyright: ignore[reportArgumentType] - none is called allow_pickle
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): choose another place for it."
        ) from None


def _check_place(path: Path) -> None:
    """Raise DataError where the file cannot be written, before an hour's work is done for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): choose another place for it."
        ) from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise DataError(f"{path} cannot be written: choose a file in a writable folder.")
