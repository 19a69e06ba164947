"""Pair images with the caption files beside them, by their paths, in folders and shards alike.

fox.jpg and fox.txt are a pair: the paths are equal but for what follows their last dot. fox.depth.png is an
image of its own, whose captions are in fox.depth.txt. Suffixes count in any case.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from sanakit.data.read.caption_files import captions_in_json, captions_in_text
from sanakit.images.formats import DATA_SUFFIXES

CAPTION_READERS = {".txt": captions_in_text, ".json": captions_in_json}


@dataclass(frozen=True, slots=True)
class Pairs:
    """The files of a place.

    images: paths, in the order given.   captions: an image's path without its suffix, and ".txt" or ".json"
    -> the path of its captions.   ignored: path -> why the file is not used.
    """

    images: list[str]
    captions: dict[str, str]
    ignored: dict[str, str]


def paired(paths: Iterable[str]) -> Pairs:
    """Pair the files of a place. paths: of all of them, with forward slashes, each once.

    >>> paired(["fox.JPG", "fox.TXT", "owl.txt"]).captions
    {'fox.txt': 'fox.TXT'}
    """
    images: list[str] = []
    captions: dict[str, str] = {}
    ignored: dict[str, str] = {}
    stems: set[str] = set()
    for path in paths:
        stem, suffix = posixpath.splitext(path)
        kind = suffix.lower()
        if kind in DATA_SUFFIXES:
            images.append(path)
            stems.add(stem)
        elif kind in CAPTION_READERS:
            beside = path if kind == suffix else stem + kind
            unused, captions[beside] = sorted((captions.get(beside, ""), path))
            if unused:
                ignored[unused] = f"is not used: the captions of {captions[beside]} are"
        else:
            ignored[path] = f"is not an image ({suffix or 'no suffix'})"
    lonely = [beside for beside in captions if posixpath.splitext(beside)[0] not in stems]
    ignored |= {captions.pop(beside): "is a caption without an image" for beside in lonely}
    return Pairs(images, captions, ignored)
