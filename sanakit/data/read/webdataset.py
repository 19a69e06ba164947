"""WebDataset shards: plain .tar files in which fox.jpg, fox.txt and fox.json are one sample.

The members' headers are read once, when the shards are opened, without the images between them. Then every
image is read by its offset, in any order. No index file is needed.
Source of the convention: github.com/webdataset/webdataset (a sample's name ends at the first dot).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sanakit.data.read.caption_files import captions_in_json, captions_in_text, distinct
from sanakit.data.read.captions import Caption
from sanakit.data.read.source import PICTURES, Names, fingerprint_of
from sanakit.errors import DataError

_NONE = -1
_COLUMNS = ("shard", "offset", "size", "text offset", "text size", "json offset", "json size")
_CAPTIONS = {".txt": 3, ".json": 5}  # suffix -> its first column


class TarSource:
    """The images of shards, in the shards' order.

    Raises DataError for compressed shards, and where none of them is a tar file; of several, a damaged one is
    among `ignored`, and what lies whole before the damage is used.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self.shards = list(shards)
        packed = [shard for shard in self.shards if shard.suffix.lower() != ".tar"]
        if packed:
            raise DataError(
                f"{packed[0]} is compressed, so single images cannot be read from it: unpack it to a "
                "plain .tar (gunzip); compression does not make JPEG files smaller."
            )
        common = os.path.commonpath([shard.absolute().parent for shard in self.shards])
        self._shard_names = [os.path.relpath(shard.absolute(), common) for shard in self.shards]
        self.ignored: dict[str, str] = {}
        names: list[str] = []
        rows: list[np.ndarray] = []
        for number in range(len(self.shards)):
            found = self._index(number)
            names += found
            rows.append(np.array(list(found.values()), dtype=np.int64).reshape(-1, len(_COLUMNS)))
        if not names and self.ignored:
            name, reason = next(iter(self.ignored.items()))
            raise DataError(f"The shards hold no image; the first file, {name}, {reason}.")
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

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the captions of the .txt and .json members beside the image. Raises DataError, OSError."""
        found: list[Caption] = []
        for suffix, reader in ((".txt", captions_in_text), (".json", captions_in_json)):
            column = _CAPTIONS[suffix]
            if self._rows[index, column] != _NONE:
                found += reader(self._bytes(index, column), f"{self.key(index)} ({suffix})")
        return distinct(found)

    def fingerprint(self) -> str:
        """Tell these shards from others: by names, sizes and times of change."""
        return fingerprint_of(zip(self._shard_names, self.shards, strict=True))

    def _bytes(self, index: int, column: int) -> bytes:
        offset, size = self._rows[index, column : column + 2].tolist()
        with open(self.shards[self._rows[index, 0]], "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def _index(self, number: int) -> dict[str, list[int]]:
        """Read a shard's headers in one pass: name of the image -> its row of `_COLUMNS`."""
        shard, name = self.shards[number], self._shard_names[number]
        pictures: dict[str, tuple[str, list[int]]] = {}  # sample -> its image
        captions: dict[str, dict[int, tuple[int, int]]] = {}
        try:
            length = shard.stat().st_size
            with tarfile.open(shard, "r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - it would keep all
                    if not member.isreg() or os.path.basename(member.name).startswith("."):
                        continue
                    self._sort_in(member, number, length, pictures, captions)
        except (OSError, tarfile.TarError) as error:
            self.ignored[name] = f"is damaged or not a tar file ({error}); {len(pictures)} images before that"
        for sample, places in captions.items():
            if sample not in pictures:
                self.ignored[f"{name}:{sample}"] = "is a caption without an image"
                continue
            for column, place in places.items():
                pictures[sample][1][column : column + 2] = place
        return dict(pictures.values())

    def _sort_in(
        self,
        member: tarfile.TarInfo,
        number: int,
        length: int,
        pictures: dict[str, tuple[str, list[int]]],
        captions: dict[str, dict[int, tuple[int, int]]],
    ) -> None:
        """Put a member where it belongs: an image, its captions, or `ignored`."""
        folder, base = os.path.split(member.name)
        sample = os.path.join(folder, base.split(".", 1)[0])
        suffix = os.path.splitext(base)[1].lower()
        key = f"{self._shard_names[number]}:{member.name}"
        place = (member.offset_data, member.size)
        if sum(place) > length:
            self.ignored[key] = "is cut off: the shard ends inside it"
        elif suffix in _CAPTIONS:
            captions.setdefault(sample, {})[_CAPTIONS[suffix]] = place
        elif suffix not in PICTURES:
            self.ignored[key] = f"is not an image ({suffix or 'no suffix'})"
        elif sample in pictures:
            self.ignored[key] = f"is a second image of the sample {sample}"
        else:
            pictures[sample] = (member.name, [number, *place, *[_NONE] * 4])


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
