"""A source whose captions are given by the caller: one for all images, or one for each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sanakit.data.read.captions import Caption
from sanakit.data.read.source import Recaptioned, Source
from sanakit.errors import DataError


class GivenCaptions(Recaptioned):
    """The images of a source with other captions; its own, which may be damaged or missing, are not read.

    texts: one for all images, or one for each, in their order. Raises DataError for another number.
    """

    def __init__(self, source: Source, texts: Sequence[str]) -> None:
        if len(texts) not in (1, len(source)):
            raise DataError(
                f"{len(texts)} captions came for {len(source)} {source.medium.plural}: give one, or one for "
                "each."
            )
        super().__init__(source)
        self.texts = tuple(texts)

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the caption that was given."""
        return (Caption(self.texts[index % len(self.texts)]),)

    def captions_fingerprint(self) -> str:
        """Tell the given captions from others."""
        return hashlib.sha256(ascii(self.texts).encode()).hexdigest()
