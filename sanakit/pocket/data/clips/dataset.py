"""The data set of clips that pocket-video learns from: animated emoji on white, named and captioned.

A folder of three files, written whole or not at all:
frames.npy     uint8, all frames of all clips one after the other, F S S 3, RGB on white, 24 a second
captions.jsonl one row (ClipRow) per clip, which says where its frames lie
sources.json   format number; side; package, version, licence, checksum and number of clips per source
Only MIT art. A clip is a loop: behind its last frame comes its first.
Nobody needs this to use pocket-video, only to train it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sanakit.errors import DataError, SettingsError
from sanakit.pocket.data import sources
from sanakit.pocket.data.clips import art
from sanakit.pocket.data.clips.measure import measure_motion
from sanakit.pocket.data.dataset import OnProgress, check_place, new_folder, opened, packages_of
from sanakit.pocket.words.captions import plain_name
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.motion import Motion, clip_captions
from sanakit.reading import read_text, split_lines

FORMAT = 1  # raised when the content changes for the same packages
FRAMES, ROWS, SOURCES = "frames.npy", "captions.jsonl", "sources.json"
SIDES = (64, 96)  # px
HELD_OUT_ONE_IN = 20  # 5 % of the concepts that are not common, with all their skin tones


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRow:
    """One clip of the data set: frames `first` to `first + frames` (not included) of frames.npy.

    name: words without article. concept: CLDR base label, the same in all skin tones. hex: code points.
    tone: CLDR's words for the skin, "" for the yellow one. captions: the last two are the thing alone.
    split: "train" or "val", the same for all clips of a concept.
    """

    name: str
    concept: str
    hex: str
    tone: str
    group: str
    subgroup: str
    captions: list[str]
    motion: Motion
    first: int
    frames: int
    licence: str
    source: str
    split: str


@dataclass(frozen=True, slots=True)
class PocketClips:
    """An opened data set. frames: F S S 3 uint8, memory-mapped. rows: N. sources: the manifest."""

    frames: np.ndarray
    rows: list[ClipRow]
    sources: dict

    @property
    def side(self) -> int:
        """Pixels of a frame's side."""
        return self.frames.shape[1]

    @property
    def lengths(self) -> list[int]:
        """The frames of each clip."""
        return [row.frames for row in self.rows]

    @property
    def fingerprint(self) -> str:
        """Tell these clips and captions from others, by the rows and the packages' checksums."""
        return hashlib.sha256(repr((self.sources, self.rows)).encode()).hexdigest()

    def take(self, number: int, start: int, step: int, count: int) -> np.ndarray:
        """Return `count` frames of a clip, every `step`-th from `start` on, round the loop: T S S 3."""
        row = self.rows[number]
        return self.frames[row.first + (start + step * np.arange(count)) % row.frames]


def clip_split(concept: str) -> str:
    """Return "val" for one concept in twenty that is not common, by the hash of its name; else "train"."""
    if concept in COMMON_CONCEPTS:  # what people ask for must not be held out
        return "train"
    return "val" if int(hashlib.sha1(concept.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0 else "train"


def build_clips(
    folder: str | Path,
    *,
    side: int = 64,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> PocketClips:
    """Build the data set in a new folder (1.6 GB at 64 px) and open it; a finished one is only opened.

    side: 64 or 96 px. cache: folder for the npm tarballs (0.7 GB), default FOLDER-packages; those there are
    not downloaded again. workers: drawing processes, default one per CPU core; 1 draws in this process, more
    need the usual `if __name__ == "__main__":` around the calling script. progress: see OnProgress.
    Raises DataError (download, checksum, folder in use, disk full, another side in the folder) and
    SettingsError for another side.
    """
    if side not in SIDES:
        raise SettingsError(
            f"The clips have {' or '.join(map(str, SIDES))} px, not {side}: choose one of them."
        )
    folder = Path(folder).absolute()
    cache = Path(cache) if cache is not None else packages_of(folder)
    report = progress or (lambda what, done, total: None)
    if (folder / SOURCES).exists():
        built = open_clips(folder)
        if built.side != side:
            raise DataError(f"{folder} holds clips of {built.side} px: choose another folder for {side} px.")
        return built
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is in use: choose an empty or new folder for the data set.")
    check_place(folder)
    check_place(cache.absolute())

    tarballs = {}
    for index, package in enumerate(art.PACKAGES):
        report(f"fetching {package.spec}", index, len(art.PACKAGES))
        tarballs[package] = sources.obtain(package, cache)
    with new_folder(folder, "1.6 GB at 64 px and 3.6 GB at 96 px") as partial:
        rows = _write_clips(tarballs, partial, side, workers or os.cpu_count() or 1, report)
        lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        (partial / ROWS).write_text(lines, encoding="utf-8")
        manifest = json.dumps(_manifest(rows, side), indent=2)
        (partial / SOURCES).write_text(f"{manifest}\n", encoding="utf-8")
    return open_clips(folder)


def open_clips(folder: str | Path) -> PocketClips:
    """Open a data set that build_clips wrote.

    Raises DataError when it is missing, incomplete, damaged or of another format.
    """
    folder = Path(folder)
    kind = {"what": "a data set of clips", "command": "sana data pocket-clips"}
    with opened(folder, FORMAT, **kind, key="side", other="images, not clips") as manifest:
        rows = [_row(json.loads(line)) for line in split_lines(read_text(folder / ROWS))]
        frames = np.load(folder / FRAMES, mmap_mode="r")
        count, side = sum(row.frames for row in rows), manifest["side"]
        if (frames.dtype, frames.shape) != (np.uint8, (count, side, side, 3)):
            raise ValueError(f"{frames.shape} for {count} frames of {side} px")
    return PocketClips(frames, rows, manifest)


def _row(fields: dict) -> ClipRow:
    motion = Motion(**fields.pop("motion"))
    return ClipRow(motion=motion, **fields)


def _write_clips(
    tarballs: Mapping[sources.Package, Path], folder: Path, side: int, workers: int, report: OnProgress
) -> list[ClipRow]:
    emojis = art.list_emojis(tarballs)
    # frames are written one after the other and their number is known at the end: a header of fixed length
    rows: list[ClipRow] = []
    first = 0
    with (folder / FRAMES).open("wb") as file:
        _write_header(file, (0, side, side, 3))
        for package in art.ANIMATED:
            files = ((code, data) for code, data in art.read_animated(tarballs[package]) if code in emojis)
            for code, frames in _draw_all(files, side, workers):
                if frames is None:
                    continue
                rows.append(row_of(emojis[code], frames, first, package))
                file.write(frames.tobytes())
                first += len(frames)
                report("drawing clips", len(rows), len(emojis))
        file.seek(0)
        _write_header(file, (first, side, side, 3))
    return rows


def row_of(one: art.AnimatedEmoji, frames: np.ndarray, first: int, package: sources.Package) -> ClipRow:
    """Describe a clip. frames: T S S 3, its own; first: where they lie."""
    emoji = one.emoji
    motion = measure_motion(frames[:: art.RATE // 8])
    return ClipRow(
        name=plain_name(emoji.concept),
        concept=emoji.concept,
        hex=one.code,
        tone=one.tone,
        group=emoji.group,
        subgroup=emoji.subgroup,
        captions=clip_captions(emoji.concept, one.tone, emoji.keywords, motion),
        motion=motion,
        first=first,
        frames=len(frames),
        licence=package.licence,
        source=f"{package.spec} ({package.origin})",
        split=clip_split(emoji.concept),
    )


HEADER = 128  # bytes: room for any number of frames


def _write_header(file, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == HEADER


def _draw_all(
    files: Iterator[tuple[str, bytes]], side: int, workers: int
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Draw files in their order; some ahead in other processes, so that memory stays small."""
    if workers == 1:
        for code, data in files:
            yield code, art.draw_frames(data, side)
        return
    # spawned, because a fork of torch's threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        ahead: deque[tuple[str, Future[np.ndarray | None]]] = deque()
        try:
            for code, data in files:
                ahead.append((code, pool.submit(art.draw_frames, data, side)))
                if len(ahead) > 3 * workers:
                    code, drawn = ahead.popleft()
                    yield code, drawn.result()
            for code, drawn in ahead:
                yield code, drawn.result()
        except BrokenProcessPool as error:
            raise DataError(
                "The drawing processes died: guard the calling script with `if __name__ == '__main__':`, "
                "or build with workers=1."
            ) from error


def _manifest(rows: list[ClipRow], side: int) -> dict:
    return {
        "format": FORMAT,
        "side": side,
        "clips": len(rows),
        "packages": [
            {
                "package": package.name,
                "version": package.version,
                "licence": package.licence,
                "origin": package.origin,
                "sha512": package.sha512,
                "clips": sum(row.source.startswith(f"{package.spec} ") for row in rows),
            }
            for package in art.PACKAGES
        ],
    }
