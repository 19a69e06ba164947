"""A folder of images or clips, nested to any depth, with captions beside them or in a table.

fox.jpg        the image               metadata.jsonl, .csv or .parquet, in any of the folders: rows with
fox.txt        captions, one per line      "file_name" (relative to the table) and captions, as in Hugging
fox.json       captions with scores      Face's ImageFolder; see `caption_files` for the forms of captions
Captions from all of these add up; `pairs` says which file belongs to which image. Names that begin with a dot
are passed over. Of clips, a folder of frames in it is one: `run`, with run.txt beside it.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from sanakit.clips.formats.folder import INDEX
from sanakit.clips.reading import ClipFile, open_clip, open_clip_content
from sanakit.data.frame_folders import find_frame_folders
from sanakit.data.medium import CLIPS, IMAGES, Medium
from sanakit.data.read.caption_files import captions_in_value, distinct, unused_columns
from sanakit.data.read.captions import Caption
from sanakit.data.read.pairs import CAPTION_READERS, paired
from sanakit.data.read.sidecar import SIDECAR
from sanakit.data.read.source import Names, fingerprint_of
from sanakit.errors import DataError, MissingExtraError, SettingsError
from sanakit.reading import named_once

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_NAME = "file_name"  # the column with an image's path, relative to its table


class FolderSource:
    """The images or clips of a folder, sorted by their paths in it.

    medium: which of both. frame_rate: frames a second of folders of frames without clip.json; None: those are
    not clips. Raises DataError for a table that is damaged.
    """

    def __init__(self, root: Path, medium: Medium = IMAGES, frame_rate: Fraction | None = None) -> None:
        self.root, self.medium, self.frame_rate = root, medium, frame_rate
        self.ignored: dict[str, str] = {}
        self._folders: dict[str, list[str]] = {}
        tables: list[str] = []
        others: list[str] = []
        paths: Iterable[str] = files_below(root, self.ignored)
        if medium is CLIPS:
            found = find_frame_folders(paths, frame_rate)
            self._folders, paths = found.folders, found.others
            self.ignored |= found.ignored
        for path in paths:
            name = posixpath.basename(path)
            if name.lower() in TABLES:
                tables.append(path)
            elif name != SIDECAR:
                others.append(path)
            elif path != SIDECAR:
                self.ignored[path] = "is not used: it is read in the data set's own folder only"
        self._pairs = paired([*others, *self._folders], medium, self._folders)
        self.ignored |= self._pairs.ignored
        names = sorted(self._pairs.samples)
        self._names = Names(names)
        self._pairs.samples.clear()  # millions of them: they are in the names
        self._tables = sorted(tables)
        self._rows = self._read_tables(set(names)) if names else {}

    def __len__(self) -> int:
        return len(self._names)

    @property
    def uses_rate(self) -> bool:
        """Return whether a folder of frames here takes the rate that was given for all."""
        stated = (f"{name}/{INDEX}" in files for name, files in self._folders.items())
        return self.frame_rate is not None and not all(stated)

    def key(self, index: int) -> str:
        """Return the image's path in the folder, with forward slashes."""
        return self._names[index]

    def open(self, index: int) -> BinaryIO:
        """Open the image's file. Raises OSError."""
        return open(os.path.join(self.root, self._names[index]), "rb")

    def read(self, index: int) -> bytes:
        """Return the image's file. Raises OSError."""
        with open(os.path.join(self.root, self._names[index]), "rb", buffering=0) as file:
            return file.read()

    def clip(self, index: int) -> ClipFile:
        """Open the clip, a file or a folder of frames. Raises OSError, SettingsError."""
        name = self._names[index]
        if name not in self._folders:
            return open_clip_content(self.open(index), name)
        place = os.path.join(self.root, name)
        stated = os.path.join(name, INDEX).replace(os.sep, "/") in self._folders[name]
        try:
            return open_clip(place, folder_rate=None if stated else self.frame_rate)
        except SettingsError as error:
            raise type(error)(str(error).replace(place, name)) from None

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the captions of tables, then of the files beside the image. Raises DataError, OSError."""
        name = self._names[index]
        found = list(self._rows.get(name, ()))
        for suffix, reader in CAPTION_READERS.items():
            beside = self._pairs.beside(name, suffix)
            if beside is not None:
                with open(os.path.join(self.root, beside), "rb", buffering=0) as file:
                    found += reader(file.read(), beside)
        return distinct(found)

    def fingerprint(self) -> str:
        """Tell this folder's images from others: by paths, sizes and times of change."""
        files = (path for name in self._names for path in sorted(self._folders.get(name, [name])))
        return fingerprint_of((path, self.root / path) for path in files)

    def captions_fingerprint(self) -> str:
        """Tell these captions from others: by their files' and tables' paths, sizes and times of change."""
        files = [*self._tables, *sorted(self._pairs.captions.values())]
        return fingerprint_of((name, self.root / name) for name in files)

    def _read_tables(self, samples: set[str]) -> dict[str, tuple[Caption, ...]]:
        found: dict[str, tuple[Caption, ...]] = {}
        for table in self._tables:
            columns: dict[str, None] = {}
            for number, row in enumerate(_rows(self.root / table), start=1):
                place = f"{self.root / table}, row {number},"
                if not isinstance(row, dict) or not isinstance(row.get(_NAME), str):
                    raise DataError(f'{place} names no {self.medium.name}: give each row a "{_NAME}".')
                columns |= dict.fromkeys(row)
                named = os.path.normpath(os.path.join(os.path.dirname(table), row[_NAME]))
                name = named.replace(os.sep, "/")
                captions = captions_in_value(row, place)
                if name in samples:
                    found[name] = distinct([*found.get(name, ()), *captions])
                else:
                    self.ignored[name] = f"is in {table}, but not in the folder"
            unused = unused_columns(columns, {_NAME})
            self.ignored |= {f"{table}: column {column}": reason for column, reason in unused.items()}
        return found


def files_below(root: Path, ignored: dict[str, str]) -> Iterator[str]:
    """Yield the paths of all files below the root, with forward slashes; names with a leading dot are
    skipped.

    ignored: takes links to folders, which may lead in circles, and what would be read without end: pipes.
    Raises DataError for a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): check its permissions."
        ) from None

    for folder, folders, files in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                ignored[prefix + name] = "is a link to a folder: pass that folder itself"
        for name in files:
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if os.path.isfile(path) or not os.path.exists(path):  # a link to nowhere is a broken image
                yield prefix + name
            else:
                ignored[prefix + name] = "is not a file"


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a metadata table. Raises DataError for one that cannot be read."""
    try:
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from _csv_rows(path, file)
        else:
            with path.open(encoding="utf-8-sig") as file:
                yield from (json.loads(line, object_pairs_hook=named_once) for line in file if line.strip())
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}): repair or remove it.") from None


def _csv_rows(path: Path, file: TextIO) -> Iterator[dict[str, str]]:
    """Yield the rows of a table whose first line names its columns. Raises DataError, csv.Error."""
    reader = csv.reader(file, strict=True)
    columns = [name.strip() for name in next(reader, [])]
    repeated = next((name for name in columns if name and columns.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path} names the column {repeated!r} twice: rename one of them.")
    for cells in reader:
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError(
                f"{path}, line {reader.line_num}, has {len(cells)} cells for {len(columns)} columns: put "
                "texts with commas in quotes."
            )
        if any(cell.strip() for cell in cells):
            yield dict(zip(columns, cells, strict=False))  # a short row lacks its last cells


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "train") from None
    # ArrowInvalid, what it raises for a damaged file, is a ValueError
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()
