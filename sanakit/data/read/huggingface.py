"""Hugging Face data sets: a saved folder, .parquet files with images or clips inside, or a name on the Hub.

All are read by the library `datasets`, an extra: it turns parquet, whose rows cannot be read singly, into
memory-mapped tables (in its own cache) and downloads from the Hub. Only "hub:" places use the network.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sanakit.clips.reading import ClipFile, open_clip_content
from sanakit.data.medium import IMAGES, Medium
from sanakit.data.read.caption_files import (
    SCORE_KEYS,
    SOURCE_KEY,
    TEXT_KEYS,
    captions_in_value,
    unused_columns,
)
from sanakit.data.read.captions import Caption
from sanakit.data.read.source import fingerprint_of
from sanakit.errors import DataError, MissingExtraError

SPLIT = "train"
_PATHS = ("string", "large_string")  # kinds of columns that hold paths of files


class TableSource:
    """The rows of a `datasets.Dataset`. Raises DataError unless one column holds samples of the medium.

    name: of the place, for messages and keys.   ignored: what else lies in the place, name -> reason.
    Of several columns of images the one with a usual name is taken, "image" before all others; of clips,
    "video".
    """

    def __init__(
        self, table: Any, name: str, ignored: Mapping[str, str] | None = None, medium: Medium = IMAGES
    ) -> None:
        library = _library()
        self.name, self.medium = name, medium
        features, best = table.features, medium.columns[0]
        if not hasattr(library, medium.feature):
            raise DataError(
                f"{name} cannot be read as {medium.plural} by datasets {library.__version__}: update it."
            )
        columns = _sample_columns(features, medium)
        if not columns:
            raise DataError(
                f"{name} has no column of {medium.plural}, only {', '.join(features)}: call the column "
                f"{best!r}."
            )
        self._column, *others = columns
        unused = {
            column: f"is not used: the {medium.plural} are those of {self._column!r}; to train on these, "
            f"rename both columns, this one to {best!r}"
            for column in others
        }
        unused |= unused_columns(features, columns)
        self.ignored = {f"column {column}": reason for column, reason in unused.items()} | dict(ignored or {})
        # The file as it is: decoding it in our own way is what makes it quick.
        table = table.cast_column(self._column, getattr(library, medium.feature)(decode=False))
        self._files = table.select_columns([self._column])
        words = {*TEXT_KEYS, *SCORE_KEYS, SOURCE_KEY} - {self._column}
        self._texts = table.select_columns([column for column in features if column in words])

    def __len__(self) -> int:
        return len(self._files)

    def key(self, index: int) -> str:
        """Return name:row."""
        return f"{self.name}:{index}"

    def open(self, index: int) -> BinaryIO:
        """Open the image in its row. Raises OSError."""
        return io.BytesIO(self.read(index))

    def read(self, index: int) -> bytes:
        """Return the image's file. Raises OSError for a row without one."""
        value = self._files[int(index)][self._column] or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if not value.get("path"):
            raise OSError(f"the row holds no {self.medium.name}")
        return Path(value["path"]).read_bytes()

    def clip(self, index: int) -> ClipFile:
        """Open the clip in its row. Raises OSError, SettingsError."""
        return open_clip_content(self.open(index), self.key(index))

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the captions of the row (see `caption_files`). Raises DataError."""
        if not self._texts.column_names:
            return ()
        return captions_in_value(self._texts[int(index)], self.key(index))

    def fingerprint(self) -> str:
        """Tell this table from others: by its files' names, sizes and times of change, and its rows."""
        files = [Path(entry["filename"]) for entry in self._files.cache_files]
        return fingerprint_of((f"{len(self)} {path.name}", path) for path in files)

    def captions_fingerprint(self) -> str:
        """As of the images: the table holds both."""
        return self.fingerprint()


def saved_source(folder: Path, medium: Medium = IMAGES) -> TableSource:
    """Open what `Dataset.save_to_disk` wrote; of several splits the one called "train". Raises DataError."""
    library = _library()
    loaded = _load(folder, lambda: library.load_from_disk(os.fspath(folder)))
    return _one_split(loaded, folder.name, medium)


def parquet_source(files: Sequence[Path], medium: Medium = IMAGES) -> TableSource:
    """Open .parquet files that hold images or clips. Raises DataError."""
    library = _library()
    names = [os.fspath(file) for file in files]
    table = _load(files[0], lambda: library.load_dataset("parquet", data_files=names, split=SPLIT))
    name = files[0].parent.name if len(files) > 1 else files[0].name
    return TableSource(table, name, medium=medium)


def hub_source(name: str, medium: Medium = IMAGES) -> TableSource:
    """Fetch a data set of the Hugging Face Hub and open it. name: organisation/name. Raises DataError."""
    library = _library()
    return _one_split(_load(name, lambda: library.load_dataset(name)), name, medium)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "train") from None
    return datasets


def _load(place: Any, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # the library raises its own, pyarrow's and those of the network
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{place} cannot be opened as a Hugging Face data set: {reason}") from None


def _sample_columns(features: Mapping[str, Any], medium: Medium) -> list[str]:
    """Return the columns that may hold images or clips, the one to use first.

    Usual names come before others, and columns of files before columns of their paths.
    """
    kinds = getattr(_library(), medium.feature)
    typed = [column for column, kind in features.items() if isinstance(kind, kinds)]
    named = [column for column in medium.columns if column in features]
    paths = [column for column in named if getattr(features[column], "dtype", None) in _PATHS]
    files = [column for column in named if column not in paths]
    return list(dict.fromkeys([*files, *typed, *paths]))


def _one_split(found: Any, name: str, medium: Medium) -> TableSource:
    """Return the split to train on, and name the others."""
    if not isinstance(found, Mapping):
        return TableSource(found, name, medium=medium)
    if SPLIT not in found and len(found) > 1:
        raise DataError(
            f"The data set has the splits {', '.join(found)}, but none named {SPLIT!r}: rename one."
        )
    taken = SPLIT if SPLIT in found else next(iter(found))
    others = {f"split {split}": f"is not used: the split {taken!r} is" for split in found if split != taken}
    return TableSource(found[taken], name, others, medium)
