"""Pair images or clips with the caption files beside them, by their paths, in folders and shards alike.

fox.jpg and fox.txt are a pair: the paths are equal but for what follows their last dot. fox.depth.png is an
image of its own, whose captions are in fox.depth.txt. Suffixes count in any case. A folder of frames is a
clip: the captions of the folder `run` are in run.txt beside it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sanakit.data.medium import IMAGES, Medium
from sanakit.data.read.caption_files import captions_in_json, captions_in_text

CAMERAS = (".cameras.json", ".cameras.txt")  # camera paths, which `data/batches/camera_paths.py` takes up
CAPTION_READERS = {".txt": captions_in_text, ".json": captions_in_json}


@dataclass(frozen=True, slots=True)
class Pairs:
    """The files of a place.

    samples: paths of images or clips, in the order given.   captions: a sample's stem and ".txt" or ".json"
    -> the path of its captions.   ignored: path -> why the file is not used.   folders: those of the samples
    that are folders of frames.
    """

    samples: list[str]
    captions: dict[str, str]
    ignored: dict[str, str]
    folders: Collection[str] = ()

    def beside(self, sample: str, suffix: str) -> str | None:
        """Return the path of a sample's captions of a kind, ".txt" or ".json"; None: there are none."""
        return self.captions.get(_stem(sample, self.folders) + suffix)


def paired(paths: Iterable[str], medium: Medium = IMAGES, folders: Collection[str] = ()) -> Pairs:
    """Pair the files of a place. paths: of all of them, with forward slashes, each once.

    folders: those of the paths that are folders of frames.

    >>> paired(["fox.JPG", "fox.TXT", "owl.txt"]).captions
    {'fox.txt': 'fox.TXT'}
    """
    samples: list[str] = []
    captions: dict[str, str] = {}
    ignored: dict[str, str] = {}
    stems: set[str] = set()
    for path in paths:
        stem, suffix = posixpath.splitext(path)
        kind = suffix.lower()
        if path in folders or kind in medium.suffixes:
            samples.append(path)
            stems.add(_stem(path, folders))
        elif kind in CAPTION_READERS:
            beside = path if kind == suffix else stem + kind
            unused, captions[beside] = sorted((captions.get(beside, ""), path))
            if unused:
                ignored[unused] = f"is not used: the captions of {captions[beside]} are"
        else:
            ignored[path] = f"is not {medium.article} ({suffix or 'no suffix'})"
    lonely = [beside for beside in captions if posixpath.splitext(beside)[0] not in stems]
    for beside in lonely:
        without = f"is a caption without {medium.article}"
        ignored[captions.pop(beside)] = (
            "is a camera path, which only models of worlds use" if beside.endswith(CAMERAS) else without
        )
    return Pairs(samples, captions, ignored, folders)


def _stem(path: str, folders: Collection[str]) -> str:
    """Return what the names of a sample's captions begin with; the name of a folder has no suffix."""
    return path if path in folders else posixpath.splitext(path)[0]
