"""Folders of frames: 000000.png, 000001.png, ... and clip.json with the rate and the settings.

A folder without clip.json is read if every image in it has a number in its name; its rate is then asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from sanakit.clips.counts import natural_key
from sanakit.clips.facts import ClipFacts, check_frames, check_pixels, damaged
from sanakit.clips.formats.plan import AddFrame, WritePlan
from sanakit.clips.settings import settings_from
from sanakit.errors import OutputError, SettingsError
from sanakit.images.formats import DATA_FORMATS, DATA_SUFFIXES
from sanakit.images.opening import flatten, open_image
from sanakit.reading import read_text

INDEX = "clip.json"


@contextmanager
def write_folder(partial: Path, plan: WritePlan) -> Iterator[AddFrame]:
    """Write a folder of PNG files, and last clip.json, which counts them."""
    partial.mkdir()
    count = 0

    def add(frame: np.ndarray) -> None:
        nonlocal count
        Image.fromarray(frame).save(partial / f"{count:06}.png")
        count += 1

    yield add
    index = {"frames": count, "width": plan.width, "height": plan.height, **json.loads(plan.comment)}
    (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def check_replaceable(path: Path) -> None:
    """Raise OutputError where a folder of frames would replace something else."""
    if os.path.isdir(path) and os.listdir(path) and not is_frame_folder(path):
        raise OutputError(f"{path} holds something other than a clip: choose a new name.")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise OutputError(f"{path} is a file: choose another name, or end it in .mp4, .webm, .webp or .gif.")


def is_frame_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder says by its clip.json that it is a clip."""
    return os.path.isfile(os.path.join(path, INDEX))


class FolderFrames:
    """The frames of a folder. facts, ticks, end, base: as for `open_clip`'s other readers.

    rate: frames a second of a folder that has no clip.json. Raises SettingsError, SizeError.
    """

    def __init__(self, path: str, rate: Fraction | None) -> None:
        self.path = path
        self.names, notes = frame_names(path)
        check_frames(path, len(self.names))
        settings, stored, stated = {}, None, None
        if is_frame_folder(path):
            settings, stored, stated = _read_index(path)
            if rate is not None and rate != stored:
                raise SettingsError(f"{path} has {stored} frames a second, not {rate}: leave the rate out.")
        if stated not in (None, len(self.names)):
            raise damaged(path, f"{len(self.names)} of {stated} frames are there")
        rate = stored or rate
        if rate is None:
            raise SettingsError(
                f"{path} has no {INDEX}, so its rate is unknown: give the rate of the folder."
            )
        with open_image(os.path.join(path, self.names[0]), self.names[0], DATA_FORMATS) as first:
            self.size = flatten(first).size
        self.base, self.ticks, self.end = 1 / rate, range(len(self.names)), len(self.names)
        self.facts = ClipFacts(
            path=path,
            format="frame folder",
            codec=Path(self.names[0]).suffix[1:].lower(),
            width=self.size[0],
            height=self.size[1],
            frames=len(self.names),
            rate=rate,
            constant_rate=True,
            seconds=len(self.names) / rate,
            settings=settings,
            notes=notes,
        )

    def decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the frames of these ascending numbers: H W 3, uint8."""
        for number in numbers:
            place = os.path.join(self.path, self.names[number])
            with open_image(place, place, DATA_FORMATS) as image:
                check_pixels(place, *image.size)
                flat = flatten(image)
            if flat.size != self.size:
                raise SettingsError(
                    f"{place} is {flat.width}x{flat.height}, the first frame {self.size[0]}x{self.size[1]}: "
                    "make them equal."
                )
            yield np.asarray(flat)

    def close(self) -> None:
        """Do nothing: every frame's file is closed as soon as it is read."""


def frame_names(path: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the names of the frames in their order, and sentences on other files and on gaps."""
    entries = [name for name in os.listdir(path) if not name.startswith(".") and name != INDEX]
    names = sorted(
        (name for name in entries if name.lower().endswith(DATA_SUFFIXES) and any(map(str.isdigit, name))),
        key=natural_key,
    )
    if not names:
        raise SettingsError(f"{path} holds no frames: name them 000000.png, 000001.png and so on.")
    numbers = [natural_key(name)[0] for name in names]
    for one, other in pairwise(range(len(names))):
        if numbers[one] == numbers[other]:
            raise SettingsError(
                f"{path} holds {names[one]} and {names[other]}, two frames of one number: remove one."
            )
    notes = []
    if others := sorted(set(entries) - set(names)):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(f"Left out, as they are not frames: {', '.join(others[:3])}{more}.")
    if missing := numbers[-1] - numbers[0] + 1 - len(numbers):
        notes.append(f"{missing} numbers between the first frame and the last are missing.")
    return names, tuple(notes)


def _read_index(path: str) -> tuple[dict, Fraction, int]:
    """Return settings, rate and number of frames of a clip.json."""
    place = os.path.join(path, INDEX)
    try:
        text = read_text(place)
        frames = json.loads(text)["frames"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        frames, text = None, ""
    settings, rate = settings_from(text)
    if rate is None or not isinstance(frames, int):
        raise SettingsError(f"{place} cannot be read: delete it, and give the rate of the folder instead.")
    return settings, rate, frames
