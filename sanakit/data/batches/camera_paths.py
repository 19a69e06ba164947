"""Clips with a camera path beside each: found, checked, and cut as their frames are.

walk.mp4, or a folder of frames `walk`, has its path in one of
walk.cameras.json    our own JSON, or nerfstudio's transforms.json (`pipelines/world/paths.py`)
walk.cameras.txt     lines as RealEstate10K has them
walk.cameras/        cameras and images of COLMAP
A folder of frames that is the only one in its folder may have transforms.json, sparse/0 or sparse beside it,
as nerfstudio and COLMAP leave them. There is one pose for each frame that is stored. A clip without a path,
or with a wrong one, counts as broken, with the reason.
Shapes: F frames.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from sanakit.clips.formats.folder import frame_names
from sanakit.clips.reading import ClipFile
from sanakit.data.read.captions import Caption
from sanakit.data.read.decode import cut_of
from sanakit.data.read.source import Recaptioned, Source, fingerprint_of
from sanakit.errors import SettingsError
from sanakit.models.world.camera import CAMERA_NUMBERS, relative_poses
from sanakit.pipelines.video.source import SAME_SHAPE
from sanakit.pipelines.world.camera_files import BESIDE, read_cameras
from sanakit.pipelines.world.colmap import is_colmap
from sanakit.pipelines.world.paths import CameraPath

ABOVE = ("transforms.json", "sparse/0", "sparse")  # beside the only folder of frames


class PosedClips(Recaptioned):
    """The clips of a folder, each with its camera path. root: the folder, in which keys are paths."""

    def __init__(self, source: Source, root: Path) -> None:
        super().__init__(source)
        self.root = root
        keys = [source.key(number) for number in range(len(source))]
        above = Counter(posixpath.dirname(key) for key in keys)
        self._places = [self._found(key, above[posixpath.dirname(key)] == 1) for key in keys]
        used = [place for places in self._places for place in places]
        self.ignored = {
            name: reason
            for name, reason in source.ignored.items()
            if not any(name == place or name.startswith(f"{place}/") for place in used)
        }

    def captions(self, index: int) -> tuple[Caption, ...]:
        """As of the source itself."""
        return self.source.captions(index)

    def captions_fingerprint(self) -> str:
        """As of the source itself."""
        return self.source.captions_fingerprint()

    def fingerprint(self) -> str:
        """Tell these clips and their paths from others."""
        files = [
            (name, self.root / name)
            for places in self._places
            for place in places
            for name in self._files(place)
        ]
        both = f"{self.source.fingerprint()} {fingerprint_of(files)}"
        return hashlib.sha256(both.encode()).hexdigest()

    def clip(self, index: int) -> ClipFile:
        """Open a clip as the source does. Raises SettingsError for one without a path for its frames, too."""
        clip = self.source.clip(index)
        try:
            self._path(index, clip)
        except SettingsError:
            clip.close()
            raise
        return clip

    def cameras(self, index: int, size: tuple[int, ...], rate: Fraction) -> Tensor:
        """Return the cameras of a clip's frames from its beginning, F 20: see `camera_numbers`.

        size: frames, height and width, to which the frames are cut; rate: that they are taken at. Raises
        SettingsError and OSError as `clip` does.
        """
        frames, height, width = size
        with self.source.clip(index) as clip:
            path = self._path(index, clip)
            numbers = clip.numbers(0, frames, rate)
        shown = replace(path, poses=path.poses[numbers], intrinsics=path.intrinsics[numbers])
        return camera_numbers(cut_path(shown, height, width))

    def _path(self, index: int, clip: ClipFile) -> CameraPath:
        """Return the path of a clip, for frames of its size. Raises SettingsError."""
        key, facts = self.source.key(index), clip.facts
        places = self._places[index]
        if not places:
            raise SettingsError(f"{key} has no camera path: add NAME{BESIDE[0]} beside NAME.mp4.")
        if len(places) > 1:
            raise SettingsError(f"{key} has two camera paths, {' and '.join(places[:2])}: remove one.")
        place = self.root / places[0]
        path, names = read_cameras(place, (facts.width, facts.height))
        if len(path.poses) != facts.frames:
            raise SettingsError(
                f"{key} has {facts.frames} frames, but {places[0]} has {len(path.poses)} poses: give one for "
                "each frame."
            )
        if self._is_folder(key) and names:
            self._check_names(key, places[0], names)
        if abs(path.width * facts.height / (path.height * facts.width) - 1) > SAME_SHAPE:
            raise SettingsError(
                f"{key} has frames of {facts.width}x{facts.height} px, but {places[0]} is of images of "
                f"{path.width}x{path.height}: give the path of these frames."
            )
        factors = torch.tensor([facts.width / path.width, facts.height / path.height], dtype=torch.float64)
        lenses = path.intrinsics * factors.repeat(2)
        return CameraPath(path.poses, lenses, facts.width, facts.height)

    def _check_names(self, key: str, place: str, names: tuple[str, ...]) -> None:
        """Raise SettingsError where the images of a path are not the frames of a folder."""
        there, _ = frame_names(str(self.root / key))
        for mine, other in zip(there, map(posixpath.basename, names), strict=True):
            if mine != other:
                raise SettingsError(
                    f"{key} has the frame {mine} where {place} has {other}: give the path of these frames."
                )

    def _found(self, key: str, alone: bool) -> list[str]:
        """Return the places of a clip's paths, in the folder. alone: no other clip lies beside it."""
        is_folder = self._is_folder(key)
        stem = _stem(key, is_folder)
        found = [f"{stem}{end}" for end in BESIDE if self._is_path(f"{stem}{end}")]
        if not found and is_folder and alone and (above := posixpath.dirname(key)):
            inside = [posixpath.join(above, name) for name in ABOVE]
            found = [place for place in inside if self._is_path(place)][:1]
        return found

    def _is_path(self, place: str) -> bool:
        path = self.root / place
        return path.is_file() if path.suffix in (".json", ".txt") else is_colmap(path)

    def _is_folder(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def _files(self, place: str) -> list[str]:
        if (self.root / place).is_dir():
            return [f"{place}/{name}" for name in sorted(os.listdir(self.root / place))]
        return [place]


def cut_path(path: CameraPath, height: int, width: int) -> CameraPath:
    """Return the path for frames that are cut and scaled to a size, as `decode.scale_and_cut` does it."""
    top, left, cut_height, cut_width = cut_of(path.height, path.width, height, width)
    cut = torch.tensor([0, 0, left, top], dtype=torch.float64)
    factors = torch.tensor([width / cut_width, height / cut_height], dtype=torch.float64).repeat(2)
    return replace(path, intrinsics=(path.intrinsics - cut) * factors, width=width, height=height)


def camera_numbers(path: CameraPath) -> Tensor:
    """Return a path as training keeps it, F 20 float32: each pose row by row, then fx, fy, cx, cy in pixels.

    Poses are relative to the first, in float64 before they are rounded: far from a world's origin float32
    would lose centimetres.
    """
    numbers = torch.cat([relative_poses(path.poses).flatten(1), path.intrinsics], dim=1).float()
    assert numbers.shape[1] == CAMERA_NUMBERS
    return numbers


def _stem(key: str, is_folder: bool) -> str:
    return key if is_folder else posixpath.splitext(key)[0]
