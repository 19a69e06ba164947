"""A camera path in any form that is read here, told by its place: a folder, a text file, or JSON."""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.pipelines.world.colmap import read_colmap
from sanakit.pipelines.world.paths import CameraPath, read_named_path
from sanakit.pipelines.world.realestate import read_realestate

# Behind the name of a clip, a camera path for it.
BESIDE = (".cameras.json", ".cameras.txt", ".cameras")


def read_cameras(place: str | os.PathLike[str], size: tuple[int, int]) -> tuple[CameraPath, tuple[str, ...]]:
    """Return a camera path, and the names of its images, by which it is in order; (): the form has none.

    place: a folder of COLMAP; a .txt file as RealEstate10K has it; else our JSON, or nerfstudio's
    transforms.json. size: width and height in pixels of the images that a text file is for; the other forms
    state their own. Raises SettingsError.
    """
    place = Path(place)
    if place.is_dir():
        return read_colmap(place)
    if place.suffix.lower() == ".txt":
        return read_realestate(place, size), ()
    return read_named_path(place)
