"""Folders of frames among the files of a data set: each is one clip.

A folder with clip.json, as `writing` makes it, says its rate itself. One rate may be given for all others:
then every folder that holds numbered images, and does not say a rate, is a clip of that rate.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from sanakit.clips.formats.folder import INDEX
from sanakit.data.medium import CLIPS
from sanakit.images.formats import DATA_SUFFIXES

_FRAMES = tuple(suffix for suffix in DATA_SUFFIXES if suffix not in CLIPS.suffixes)


@dataclass(frozen=True, slots=True)
class FrameFolders:
    """The folders of frames of a place. folders: their paths -> the paths of the files in them.

    others: paths of the files that lie in none.   ignored: path -> why a folder of images is not a clip.
    """

    folders: dict[str, list[str]]
    others: list[str]
    ignored: dict[str, str]


def find_frame_folders(paths: Iterable[str], rate: Fraction | None) -> FrameFolders:
    """Tell folders of frames from other files. paths: of all files of a place, with forward slashes.

    rate: frames a second of folders without clip.json; None: those are not clips. The place itself is not
    one: its files are.
    """
    inside: dict[str, list[str]] = {}
    for path in paths:
        inside.setdefault(posixpath.dirname(path), []).append(path)
    found: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for folder, files in inside.items():
        names = [posixpath.basename(path) for path in files]
        if INDEX in names and folder:
            found[folder] = files
        elif folder and all(map(_is_frame, names)):
            if rate is not None:
                found[folder] = files
            else:
                ignored[folder] = (
                    f"is a folder of images without {INDEX}, so its rate is unknown: give one for all such "
                    "folders (--folder-fps)"
                )
    others: list[str] = []
    for folder, files in inside.items():
        owner = next((parent for parent in _parents(folder) if parent in found), None)
        if owner is not None and owner != folder:
            found[owner] += files
        elif owner is None and folder not in ignored:
            others += files
    return FrameFolders(
        {folder: files for folder, files in found.items() if not _inside(folder, found)},
        others,
        {folder: reason for folder, reason in ignored.items() if not _inside(folder, found)},
    )


def _is_frame(name: str) -> bool:
    return name.lower().endswith(_FRAMES) and any(map(str.isdigit, name))


def _parents(folder: str) -> list[str]:
    """Return the folder and those it lies in, the outermost first."""
    parts = folder.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _inside(folder: str, found: dict[str, list[str]]) -> bool:
    return any(parent in found for parent in _parents(folder)[:-1])
