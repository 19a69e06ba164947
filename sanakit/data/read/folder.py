"""A folder of images, nested to any depth, with captions beside them or in a table.

fox.jpg        the image               metadata.jsonl, .csv or .parquet, in any of the folders: rows with
fox.txt        captions, one per line      "file_name" (relative to the table) and captions, as in Hugging
fox.json       captions with scores      Face's ImageFolder; see `caption_files` for the forms of captions
Captions from all of these add up. Names that begin with a dot are passed over.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sanakit.data.read.caption_files import captions_in_json, captions_in_text, captions_in_value, distinct
from sanakit.data.read.captions import Caption
from sanakit.data.read.sidecar import SIDECAR
from sanakit.data.read.source import PICTURES, Names, fingerprint_of
from sanakit.errors import DataError, MissingExtraError

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_READERS = {".txt": captions_in_text, ".json": captions_in_json}


class FolderSource:
    """The images of a folder, sorted by their paths in it. Raises DataError for a table that is damaged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: dict[str, str] = {}
        pictures: list[str] = []
        beside: list[str] = []
        tables: list[str] = []
        for path in files_below(root, self.ignored):
            suffix = os.path.splitext(path)[1]
            name = os.path.basename(path)
            if suffix.lower() in PICTURES:
                pictures.append(path)
            elif name in TABLES:
                tables.append(path)
            elif suffix in _READERS:
                beside.append(path)
            elif name != SIDECAR:
                self.ignored[path] = f"is not an image ({suffix or 'no suffix'})"
        self._names = Names(sorted(pictures))
        stems = {os.path.splitext(path)[0] for path in pictures}
        self._beside = {path for path in beside if os.path.splitext(path)[0] in stems}
        self.ignored |= {path: "is a caption without an image" for path in beside if path not in self._beside}
        self._rows = self._read_tables(tables, set(pictures)) if pictures else {}

    def __len__(self) -> int:
        return len(self._names)

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

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the captions of tables, then of the files beside the image. Raises DataError, OSError."""
        name = self._names[index]
        found = list(self._rows.get(name, ()))
        for suffix, reader in _READERS.items():
            beside = os.path.splitext(name)[0] + suffix
            if beside in self._beside:
                with open(os.path.join(self.root, beside), "rb", buffering=0) as file:
                    found += reader(file.read(), beside)
        return distinct(found)

    def fingerprint(self) -> str:
        """Tell this folder's images from others: by paths, sizes and times of change."""
        return fingerprint_of((name, self.root / name) for name in self._names)

    def _read_tables(self, tables: list[str], pictures: set[str]) -> dict[str, tuple[Caption, ...]]:
        found: dict[str, tuple[Caption, ...]] = {}
        for table in sorted(tables):
            for number, row in enumerate(_rows(self.root / table), start=1):
                place = f"{self.root / table}, row {number},"
                if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                    raise DataError(f'{place} names no image: give each row a "file_name".')
                named = os.path.normpath(os.path.join(os.path.dirname(table), row["file_name"]))
                name = named.replace(os.sep, "/")
                captions = captions_in_value(row, place)
                if name in pictures:
                    found[name] = distinct([*found.get(name, ()), *captions])
                else:
                    self.ignored[name] = f"is in {table}, but not in the folder"
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
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file)
        else:
            with path.open(encoding="utf-8-sig") as file:
                yield from (json.loads(line) for line in file if line.strip())
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}): repair or remove it.") from None


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "train") from None
    # ArrowInvalid, what it raises for a damaged file, is a ValueError
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()
