"""The data set that the embedded model learns from: 1,366 emoji in four designs, named and captioned.

A folder of four files, written whole or not at all:
images.npy     uint8, N 256 256 3, RGB on white        captions.jsonl  one row (PocketRow) per image
alpha.npy      uint8, N 256 256, how opaque: what it takes to put an image on another ground
sources.json   format number; package, version, licence, checksum and number of images per source
Only MIT and Apache-2.0 art. Nobody needs this to use pocket, only to train it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from sanakit.errors import DataError, OutputError
from sanakit.pocket.data import sources
from sanakit.pocket.words import captions as words
from sanakit.reading import read_text, split_lines
from sanakit.whole import replaced

FORMAT = 2  # raised when the content changes for the same packages
IMAGES, ALPHA, ROWS, SOURCES = "images.npy", "alpha.npy", "captions.jsonl", "sources.json"

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PocketRow:
    """One image of the data set; its place in the rows is its place in images.npy.

    name: words without article.   concept: CLDR base label, the same in all styles.   hex: code points.
    style: key of a Style.   captions: 5-7, the last one or two without style.   split: "train" or "val".
    """

    name: str
    concept: str
    hex: str
    style: str
    style_tag: str
    group: str
    subgroup: str
    captions: list[str]
    licence: str
    source: str
    split: str


Choose = Callable[[Mapping[sources.Package, Path]], "Iterator[tuple[PocketRow, str | bytes]]"]
"""Chooses rows and art out of packages' tarballs."""


@dataclass(frozen=True, slots=True)
class PocketImages:
    """An opened data set.

    images: N S S 3 and alpha: N S S, both uint8, memory-mapped; S is 256, or the side at which they are drawn
    again (see `drawn`).   rows: N.   sources: the manifest.
    """

    images: np.ndarray
    alpha: np.ndarray
    rows: list[PocketRow]
    sources: dict

    @property
    def fingerprint(self) -> str:
        """Tell these images and captions from others, by the rows and the packages' checksums."""
        return hashlib.sha256(repr((self.sources, self.rows)).encode()).hexdigest()


def build_pocket(
    folder: str | Path,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> PocketImages:
    """Build the data set in a new folder (5,407 images, 1.4 GB) and open it; a finished one is only opened.

    cache: folder for the npm tarballs (41 MB), default FOLDER-packages; those there are not downloaded again.
    workers: drawing processes, default one per CPU core; 1 draws in this process, more need the usual
    `if __name__ == "__main__":` around the calling script.   progress: see Progress.
    Raises DataError (download, checksum, folder in use, disk full) and MissingExtraError (resvg-py).
    """
    packages = (sources.EMOJIBASE, *sources.ART_PACKAGES.values())
    return build(folder, packages, choose, "1.4 GB", cache=cache, workers=workers, progress=progress)


def build(
    folder: str | Path,
    packages: Sequence[sources.Package],
    choose: Choose,
    room: str,
    *,
    cache: str | Path | None,
    workers: int | None,
    progress: OnProgress | None,
) -> PocketImages:
    """Build a data set of chosen art in a new folder; a finished one is only opened.

    room: what it needs on the disk, for a message. Others, and what it raises: as build_pocket.
    """
    folder = Path(folder).absolute()
    cache = Path(cache) if cache is not None else packages_of(folder)
    report = progress or (lambda what, done, total: None)
    if (folder / SOURCES).exists():
        return open_pocket(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is in use: choose an empty or new folder for the data set.")
    check_place(folder)
    check_place(cache.absolute())
    sources.require_renderer()

    tarballs = {}
    for index, package in enumerate(packages):
        report(f"fetching {package.spec}", index, len(packages))
        tarballs[package] = sources.obtain(package, cache)

    report("reading the packages", 0, 1)
    rows, art = zip(*choose(tarballs), strict=True)
    with new_folder(folder, room) as partial:
        _write_images(art, partial, workers or os.cpu_count() or 1, report)
        (partial / ROWS).write_text(_jsonl(rows), encoding="utf-8")
        manifest = json.dumps(_manifest(rows, packages), indent=2)
        (partial / SOURCES).write_text(f"{manifest}\n", encoding="utf-8")
    return open_pocket(folder)


@contextmanager
def new_folder(folder: Path, room: str) -> Iterator[Path]:
    """Yield an empty folder, which becomes the data set's when all is written.

    room: what it needs on the disk. Raises DataError where it cannot be written, and OutputError where
    another process is building it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replaced(folder) as partial:
            partial.mkdir()
            yield partial
    except OutputError:
        raise
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error}). It needs {room}: free some space or choose another "
            "folder."
        ) from error


@contextmanager
def opened(
    folder: Path, version: int, *, what: str, command: str, key: str = "format", other: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield the manifest of a data set whose files are then read; what they lack or hold is damage.

    version: the format that is read. what, command: what the folder is to be, and what builds it. key: what
    manifests of this kind alone have. other: what is told of a folder of another kind.
    Raises DataError when it is missing, damaged, of another kind or of another format.
    """
    if not (folder / SOURCES).is_file():
        raise DataError(f"{folder} is not {what} (no {SOURCES}): build it with `{command} {folder}`.")
    again = f"delete it and build it again with `{command}`"
    try:
        manifest = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
        if other and key not in manifest:
            raise DataError(f"{folder} holds {other}: use a folder of `{command}`.")
        if manifest["format"] != version:
            raise DataError(
                f"{folder} has format {manifest['format']}, this version reads {version}: {again}."
            )
        yield manifest
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(f"{folder} is damaged ({error}): {again}.") from error


def open_pocket(folder: str | Path) -> PocketImages:
    """Open a data set that build_pocket wrote.

    Raises DataError when it is missing, incomplete, damaged or of another format.
    """
    folder = Path(folder)
    with opened(folder, FORMAT, what="a pocket data set", command="sana data pocket") as manifest:
        rows = [PocketRow(**json.loads(line)) for line in split_lines(read_text(folder / ROWS))]
        images = np.load(folder / IMAGES, mmap_mode="r")
        alpha = np.load(folder / ALPHA, mmap_mode="r")
        shape = (len(rows), sources.SIZE, sources.SIZE)
        found = (images.dtype, images.shape, alpha.dtype, alpha.shape)
        if found != (np.uint8, (*shape, 3), np.uint8, shape):
            raise ValueError(f"{images.shape} {alpha.shape} for {len(rows)} rows")
    return PocketImages(images, alpha, rows, manifest)


def packages_of(folder: Path) -> Path:
    """Return where the packages of a data set lie unless another place was requested."""
    return folder.absolute().parent / f"{folder.absolute().name}-packages"


def more_of(folder: Path) -> Path:
    """Return where the data set of further designs lies (see `more_art`)."""
    return folder.absolute().parent / f"{folder.absolute().name}-more"


def open_designs(folder: Path, notes: list[str]) -> tuple[PocketImages, PocketImages]:
    """Open a data set, and the same with its further designs. notes: takes a sentence where there are none.

    Raises DataError as `open_pocket` does.
    """
    pocket, more = open_pocket(folder), more_of(folder)
    if more.exists():
        return pocket, join(pocket, open_pocket(more))
    notes.append(f"There are no further designs in {more}: training goes on without them.")
    return pocket, pocket


class _Joined(Sequence[np.ndarray]):
    """Several arrays of images, one after the other."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]


def join(first: PocketImages, *others: PocketImages) -> PocketImages:
    """Return data sets as one: the rows of the first keep their places, those of the others follow."""
    every = (first, *others)
    return PocketImages(
        cast(np.ndarray, _Joined([one.images for one in every])),
        cast(np.ndarray, _Joined([one.alpha for one in every])),
        [row for one in every for row in one.rows],
        {"format": FORMAT, "packages": [package for one in every for package in one.sources["packages"]]},
    )


def check_place(folder: Path) -> None:
    """Raise DataError where a folder cannot be made, before anything is downloaded for it."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise DataError(f"{folder} cannot be created: {place} is not a writable folder. Choose another one.")


def kept_emojis(tarballs: Mapping[sources.Package, Path]) -> list[sources.Emoji]:
    """Return the emojis that belong to the data set."""
    every = sources.read_emojis(tarballs[sources.EMOJIBASE])
    return [one for one in every if words.is_kept(one.concept, one.group, one.subgroup)]


def choose(tarballs: Mapping[sources.Package, Path]) -> Iterator[tuple[PocketRow, str | bytes]]:
    """Choose the drawings of the four designs: their rows and their art."""
    emojis = kept_emojis(tarballs)
    # what Microsoft published: code point -> icon name
    released = sources.read_codes(tarballs[sources.FLUENT_FLAT])
    for style in words.STYLES:
        package = sources.ART_PACKAGES[style.name]
        if package is sources.FLUENT_3D:
            # LobeHub added figures that are not Microsoft's MIT art
            files = sources.read_images(tarballs[package])
            art = {code: files[code] for code in files.keys() & released.keys()}
            left_out = words.LEFT_OUT_OF_3D
        else:
            # the colour package has an empty chars.json but the flat package's icon names
            names = sources.read_codes(tarballs[package]) or released
            icons = sources.read_icons(tarballs[package])
            art = {code: icons[name] for code, name in names.items() if name in icons}
            left_out = frozenset()
        for emoji in emojis:
            if emoji.code in art and emoji.concept not in left_out:
                yield row_of(emoji, style, package), art[emoji.code]


def row_of(emoji: sources.Emoji, style: words.Style, package: sources.Package) -> PocketRow:
    """Describe the image of an emoji in a design."""
    return PocketRow(
        name=words.plain_name(emoji.concept),
        concept=emoji.concept,
        hex=emoji.code,
        style=style.name,
        style_tag=style.tag,
        group=emoji.group,
        subgroup=emoji.subgroup,
        captions=words.captions_of(emoji.concept, emoji.keywords, style),
        licence=package.licence,
        source=f"{package.spec} ({package.origin})",
        split=words.split_of(emoji.concept),
    )


def _write_images(art: Sequence[str | bytes], folder: Path, workers: int, report: OnProgress) -> None:
    # written one after the other, not through a memory map: a full disk is then an error and not a crash
    shape = (len(art), sources.SIZE, sources.SIZE)
    with (folder / IMAGES).open("wb") as images, (folder / ALPHA).open("wb") as alpha:
        for file, dimensions in ((images, (*shape, 3)), (alpha, shape)):
            header = {"descr": "|u1", "fortran_order": False, "shape": dimensions}
            np.lib.format.write_array_header_1_0(file, header)
        for index, image in enumerate(_draw_all(art, workers)):
            images.write(image[..., :3].tobytes())
            alpha.write(image[..., 3].tobytes())
            report("drawing", index + 1, len(art))


def _draw_all(art: Sequence[str | bytes], workers: int) -> Iterator[np.ndarray]:
    if workers == 1:
        yield from map(sources.draw, art)
        return
    # processes, because resvg keeps Python's lock; spawned, because a fork of torch's threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(sources.draw, art, chunksize=8)
        except BrokenProcessPool as error:
            raise DataError(
                "The drawing processes died: guard the calling script with `if __name__ == '__main__':`, "
                "or build with workers=1."
            ) from error


def _jsonl(rows: Sequence[PocketRow]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def _manifest(rows: Sequence[PocketRow], packages: Sequence[sources.Package]) -> dict:
    return {
        "format": FORMAT,
        "images": len(rows),
        "packages": [
            {
                "package": package.name,
                "version": package.version,
                "licence": package.licence,
                "origin": package.origin,
                "sha512": package.sha512,
                "images": sum(row.source.startswith(f"{package.spec} ") for row in rows),
            }
            for package in packages
        ],
    }
