"""Sources of training images or clips: a folder, tar shards or a Hugging Face data set, with one interface.

A source is map-style: sample i is always the same one, and can be read at any time. The kind of a place is
detected; nothing has to be prepared, and no index file is needed. All samples of a source are of one medium:
images, or clips, which have the same captions, keys and fingerprints. The words on images here hold for clips
as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from sanakit.clips.reading import ClipFile
from sanakit.data.medium import Medium
from sanakit.data.read.captions import Caption
from sanakit.data.read.sidecar import SIDECAR, Known, merged
from sanakit.errors import SettingsError


class Fingerprinted(Protocol):
    """Images and captions that can be told from others."""

    def fingerprint(self) -> str:
        """Tell these images from any others: hexadecimal, from names, sizes and times of change."""
        ...

    def captions_fingerprint(self) -> str:
        """Tell their captions, with scores, from any others, in the same way."""
        ...


class Source(Fingerprinted, Protocol):
    """Images with captions, numbered from 0. It can be pickled: reading processes get a copy."""

    @property
    def medium(self) -> Medium:
        """Return what its samples are."""
        ...

    @property
    def ignored(self) -> Mapping[str, str]:
        """Name what lies in the place and is not used, with the reason, for a report."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name an image, uniquely, for reports and sidecars: its path in the folder, or shard:member."""
        ...

    def open(self, index: int) -> BinaryIO:
        """Open an image's file, so that its header can be read without the rest. Raises OSError."""
        ...

    def read(self, index: int) -> bytes:
        """Return an image's file. Raises OSError."""
        ...

    def clip(self, index: int) -> ClipFile:
        """Open a clip's frames; the caller closes it. Raises OSError, and SettingsError as `open_clip`."""
        ...

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return an image's captions, () where it has none. Raises DataError for damaged captions."""
        ...


def data_fingerprint(source: Fingerprinted) -> str:
    """Tell a data set from any other: which images it has, and which captions and scores.

    source: an open one, or a cache of it, which has the same fingerprint. Returns 64 hexadecimal digits. No
    image is read: the names, sizes and times of change of files tell them apart.
    """
    both = f"{source.fingerprint()} {source.captions_fingerprint()}"
    return hashlib.sha256(both.encode()).hexdigest()


def clip_defect(error: SettingsError, key: str) -> str:
    """Return what is wrong with a clip, to follow its key, with which messages may begin."""
    return str(error).removeprefix(f"{key} ")


class Recaptioned:
    """A source with other captions; all else is as of the source itself."""

    def __init__(self, source: Source) -> None:
        self.source, self.medium = source, source.medium
        self.ignored = source.ignored

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        """As of the source itself."""
        return self.source.key(index)

    def open(self, index: int) -> BinaryIO:
        """As of the source itself."""
        return self.source.open(index)

    def read(self, index: int) -> bytes:
        """As of the source itself."""
        return self.source.read(index)

    def clip(self, index: int) -> ClipFile:
        """As of the source itself."""
        return self.source.clip(index)

    def fingerprint(self) -> str:
        """As of the source itself: the same images, whatever is written about them."""
        return self.source.fingerprint()


class Annotated(Recaptioned):
    """A source with the captions and scores that a sidecar adds to its own.

    known: the sidecar's entries.   ignored: parts of the sidecar that are not used, by name -> reason.
    """

    def __init__(self, source: Source, known: Mapping[str, Known], ignored: Mapping[str, str]) -> None:
        super().__init__(source)
        keys = {source.key(index) for index in range(len(source))}
        self.known = {key: entry for key, entry in known.items() if key in keys}
        unused = {**source.ignored, **ignored}
        if gone := [key for key in known if key not in keys]:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            unused[SIDECAR] = f"has captions of {self.medium.plural} that are not here: {gone[0]}{more}"
        self.ignored = unused

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the source's captions, then new ones of the sidecar, whose scores take precedence."""
        return merged(self.source.captions(index), self.known.get(self.source.key(index)))

    def captions_fingerprint(self) -> str:
        """Tell the captions of source and sidecar from others, whatever the order of the sidecar's images."""
        if not self.known:
            return self.source.captions_fingerprint()
        digest = hashlib.sha256(self.source.captions_fingerprint().encode())
        for key in sorted(self.known):
            digest.update(ascii((key, self.known[key].captions)).encode())
        return digest.hexdigest()


class Names(Sequence[str]):
    """Many short texts in one block of memory: smaller than Python strings, and quick to pickle."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        """Return one text; slices are not needed and not given."""
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].decode("utf-8", "surrogateescape")


def fingerprint_of(files: Iterable[tuple[str, Path]]) -> str:
    """Tell files, given as (name, path), from others or changed ones. A vanished one counts as of size -1."""
    digest = hashlib.sha256()
    for name, path in files:
        try:
            stat = path.stat()
            line = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        except OSError:
            line = f"{name}\0-1\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
