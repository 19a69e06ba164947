"""A source whose captions are given by the caller: one for all images, or one for each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from sanakit.data.read.captions import Caption
from sanakit.data.read.source import Source
from sanakit.errors import DataError


class GivenCaptions:
    """The images of a source with other captions; its own, which may be damaged or missing, are not read.

    texts: one for all images, or one for each, in their order. Raises DataError for another number.
    """

    def __init__(self, source: Source, texts: Sequence[str]) -> None:
        if len(texts) not in (1, len(source)):
            raise DataError(
                f"{len(texts)} captions came for {len(source)} images: give one, or one for each."
            )
        self.source, self.texts = source, tuple(texts)

    @property
    def ignored(self) -> Mapping[str, str]:
        """As of the source itself."""
        return self.source.ignored

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

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the caption that was given."""
        return (Caption(self.texts[index % len(self.texts)]),)

    def fingerprint(self) -> str:
        """As of the source itself."""
        return self.source.fingerprint()

    def captions_fingerprint(self) -> str:
        """Tell the given captions from others."""
        return hashlib.sha256(ascii(self.texts).encode()).hexdigest()
