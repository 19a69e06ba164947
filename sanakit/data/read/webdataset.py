"""WebDataset shards: plain .tar files in which fox.jpg (or fox.mp4), fox.txt and fox.json are one sample.

The members' headers are read once, when the shards are opened, without the images between them. Then every
image is read by its offset, in any order. No index file is needed.
Source of the convention: github.com/webdataset/webdataset. There a sample's name ends at the first dot, here
at the last one, as in a folder: names may hold dots, and each of several images of a sample is an image.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sanakit.clips.reading import ClipFile, open_clip_content
from sanakit.data.medium import IMAGES, Medium
from sanakit.data.read.caption_files import distinct
from sanakit.data.read.captions import Caption
from sanakit.data.read.pairs import CAPTION_READERS, paired
from sanakit.data.read.source import Names, fingerprint_of
from sanakit.data.read.tar_index import index_tar
from sanakit.errors import DataError

_NONE = -1
_COLUMNS = ("shard", "offset", "size", "text offset", "text size", "json offset", "json size")
_CAPTIONS = {".txt": 3, ".json": 5}  # kind of captions -> its first column


class TarSource:
    """The images or clips of shards, in the shards' order.

    root: the folder that keys name shards in; None: the deepest that holds all of them.   medium: of both.
    Raises DataError for compressed shards, and where none of them is a tar file; of several, a damaged one is
    among `ignored`, and what lies whole before the damage is used.
    """

    def __init__(self, shards: Iterable[Path], root: Path | None = None, medium: Medium = IMAGES) -> None:
        self.medium = medium
        self.shards = list(shards)
        packed = [shard for shard in self.shards if shard.suffix.lower() != ".tar"]
        if packed:
            raise DataError(
                f"{packed[0]} is compressed, so no single file can be read from it: unpack it to a "
                "plain .tar (gunzip); compression does not make JPEG or MP4 files smaller."
            )
        common = root or os.path.commonpath([shard.absolute().parent for shard in self.shards])
        self._shard_names = [os.path.relpath(shard, common) for shard in self.shards]
        self.ignored: dict[str, str] = {}
        damaged: dict[str, str] = {}
        names: list[str] = []
        rows: list[np.ndarray] = []
        for number in range(len(self.shards)):
            found = self._samples(number, damaged)
            names += [name for name, _ in found]
            rows.append(np.array([row for _, row in found], dtype=np.int64).reshape(-1, len(_COLUMNS)))
        self.ignored = damaged | self.ignored
        if not names and self.ignored:
            name, reason = next(iter(self.ignored.items()))
            raise DataError(f"The shards hold no {medium.name}; the first file, {name}, {reason}.")
        self._names = Names(names)
        self._rows = np.concatenate(rows)

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        """Return shard:member."""
        return f"{self._shard_names[self._rows[index, 0]]}:{self._names[index]}"

    def open(self, index: int) -> BinaryIO:
        """Open the image in its shard. Raises OSError."""
        shard, offset, size = self._rows[index, :3].tolist()
        return io.BufferedReader(_Member(self.shards[shard], offset, size))

    def read(self, index: int) -> bytes:
        """Return the image's file. Raises OSError."""
        return self._bytes(index, 1)

    def clip(self, index: int) -> ClipFile:
        """Open the clip in its shard. Raises OSError, SettingsError."""
        return open_clip_content(self.open(index), self.key(index))

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the captions of the .txt and .json members beside the image. Raises DataError, OSError."""
        found: list[Caption] = []
        for suffix, reader in CAPTION_READERS.items():
            column = _CAPTIONS[suffix]
            if self._rows[index, column] != _NONE:
                found += reader(self._bytes(index, column), f"{self.key(index)} ({suffix})")
        return distinct(found)

    def fingerprint(self) -> str:
        """Tell these shards from others: by names, sizes and times of change."""
        return fingerprint_of(zip(self._shard_names, self.shards, strict=True))

    def captions_fingerprint(self) -> str:
        """As of the images: the shards hold both."""
        return self.fingerprint()

    def _bytes(self, index: int, column: int) -> bytes:
        offset, size = self._rows[index, column : column + 2].tolist()
        with open(self.shards[self._rows[index, 0]], "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def _samples(self, number: int, damaged: dict[str, str]) -> list[tuple[str, list[int]]]:
        """Return a shard's samples, each by its name and its row of `_COLUMNS`. damaged: takes damage."""
        shard = self._shard_names[number]
        index = index_tar(self.shards[number])
        pairs = paired(index.files, self.medium)
        if index.damage:
            damaged[shard] = f"{index.damage} ({self.medium.plural} that are used: {len(pairs.samples)})"
        self.ignored |= {f"{shard}:{member}": reason for member, reason in index.ignored.items()}
        self.ignored |= {f"{shard}:{index.files[path][0]}": reason for path, reason in pairs.ignored.items()}
        found: list[tuple[str, list[int]]] = []
        for path in pairs.samples:
            member, offset, size = index.files[path]
            row = [number, offset, size, *[_NONE] * 4]
            for suffix, column in _CAPTIONS.items():
                beside = pairs.beside(path, suffix)
                if beside is not None:
                    row[column : column + 2] = index.files[beside][1:]
            found.append((member, row))
        return found


class _Member(io.RawIOBase):
    """One member of a tar file, as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this object
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(view) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
