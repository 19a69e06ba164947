"""The two kinds of samples that a place may hold: images, or clips, which are samples of several frames."""

from __future__ import annotations

from dataclasses import dataclass

from sanakit.clips.formats.container import SUFFIXES
from sanakit.images.formats import DATA_SUFFIXES


@dataclass(frozen=True, slots=True)
class Medium:
    """A kind of samples. name, plural: in sentences.

    suffixes: of its files.   columns: usual names of a table's column that holds them, the best one first.
    feature: the type of such a column in the library `datasets`.
    """

    name: str
    plural: str
    suffixes: tuple[str, ...]
    columns: tuple[str, ...]
    feature: str

    @property
    def article(self) -> str:
        """Return the name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


IMAGES = Medium(
    "image", "images", DATA_SUFFIXES, ("image", "img", "picture", "jpg", "png", "webp"), feature="Image"
)
CLIPS = Medium("clip", "clips", SUFFIXES, ("video", "clip", "mp4", "webm", "webp", "gif"), feature="Video")
