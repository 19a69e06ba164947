"""Camera paths in files: our own JSON, and nerfstudio's transforms.json; to poses and focal lengths.

Our JSON: {"width": 1280, "height": 704, "intrinsics": [fx, fy, cx, cy], "poses": [[[...], ...], ...]}. Its
poses are 4x4 camera-to-world matrices with OpenCV's axes (x right, y down, z forward). Its intrinsics are in
pixels of that size, once or for each pose. nerfstudio's matrices have OpenGL's axes (y up, z back), which are
turned here. Its frames come in the order of their images' names, whatever the file's, as nerfstudio's own
reader has them (nerfstudio_dataparser.py): the file may list them in any order.
Only pinhole cameras without distortion are taken. Shapes: F frames.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanakit.clips.counts import natural_key
from sanakit.errors import OutputError, SettingsError
from sanakit.reading import named_once, read_text
from sanakit.whole import written_whole

_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_LENSES = ("fl_x", "fl_y", "cx", "cy")  # of nerfstudio, for all frames or for one
# Further fields of nerfstudio, none of which changes where cameras stand relative to the first.
_BESIDE = frozenset(
    ("file_path", "mask_path", "depth_file_path", "colmap_im_id", "ply_file_path", "applied_transform")
)
MOST_SIDE = 65_536  # pixels of an image
_ROTATION = 1e-3  # how far a matrix of a file may be from a rotation


@dataclass(frozen=True, slots=True)
class CameraPath:
    """The camera of every frame of a clip, for images of one size."""

    poses: Tensor  # F 4 4, camera-to-world, OpenCV's axes, float64
    intrinsics: Tensor  # F 4: fx, fy, cx, cy in pixels, float64
    width: int  # of the images, in pixels
    height: int

    def covering(self, width: int, height: int) -> CameraPath:
        """Return the path for images that are resized to cover a size, then cropped at their centre."""
        scale = max(width / self.width, height / self.height)
        wide, high = max(width, round(self.width * scale)), max(height, round(self.height * scale))
        factors = torch.tensor([wide / self.width, high / self.height], dtype=torch.float64).repeat(2)
        cut = torch.tensor([0, 0, (wide - width) // 2, (high - height) // 2], dtype=torch.float64)
        return replace(self, intrinsics=self.intrinsics * factors - cut, width=width, height=height)

    def text(self) -> str:
        """Return the path in our own JSON."""
        content = {
            "width": self.width,
            "height": self.height,
            "intrinsics": self.intrinsics.tolist(),
            "poses": self.poses.tolist(),
        }
        return json.dumps(content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the path in our own JSON. Raises OutputError."""
        try:
            with written_whole(Path(path)) as partial:
                partial.write_text(self.text(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): check the path, its permissions and the free "
                "space."
            ) from None


def pinhole(width: int, height: int, degrees: float) -> Tensor:
    """Return fx, fy, cx, cy in pixels of a camera that looks at the centre of images.

    degrees: the horizontal angle of view, between 0 and 180. Raises SettingsError.
    """
    if not 0 < degrees < 180:
        raise SettingsError(f"The angle of view is {degrees} degrees; it must lie between 0 and 180.")
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    return torch.tensor([focal, focal, width / 2, height / 2], dtype=torch.float64)


def read_path(path: str | os.PathLike[str]) -> CameraPath:
    """Read a camera path: our own JSON, or nerfstudio's transforms.json, as its content tells.

    Raises SettingsError for a file that is neither, and names what in it is wrong.
    """
    return read_named_path(path)[0]


def read_named_path(path: str | os.PathLike[str]) -> tuple[CameraPath, tuple[str, ...]]:
    """Read a camera path as `read_path` does, and the names of its images; (): the file has none."""
    try:
        content = json.loads(read_text(path), object_pairs_hook=named_once)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not JSON ({error}): use a camera path in JSON.") from None
    if isinstance(content, dict) and "poses" in content:
        return _ours(content, path), ()
    if isinstance(content, dict) and "frames" in content:
        return _nerfstudio(content, path)
    raise SettingsError(
        f"{path} has neither poses nor frames: use our JSON (width, height, intrinsics, poses) or "
        "nerfstudio's transforms.json."
    )


def _ours(content: Mapping[str, Any], where: object) -> CameraPath:
    known = ("width", "height", "intrinsics", "poses")
    if unknown := sorted(set(content) - set(known)):
        raise SettingsError(f"{where} has an unknown {unknown[0]}: it must be {', '.join(known)}.")
    poses = _poses(content["poses"], where, "poses")
    lenses = _numbers(content.get("intrinsics"), where, "intrinsics")
    if lenses.shape not in ((4,), (len(poses), 4)):
        raise SettingsError(
            f"{where}: intrinsics must be fx, fy, cx, cy once, or for each of {len(poses)} poses."
        )
    return _path(poses, lenses.expand(len(poses), 4), content.get("width"), content.get("height"), where)


def _nerfstudio(content: Mapping[str, Any], where: object) -> tuple[CameraPath, tuple[str, ...]]:
    """Return the frames of a transforms.json in the order of their images' names, and the names.

    Numbers in names count as numbers. Without names the order is the file's.
    """
    frames = content["frames"]
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise SettingsError(f"{where}: frames must be a list of at least one object.")
    used = {"frames", "transform_matrix", "camera_model", "camera_angle_x", "w", "h", *_LENSES, *_DISTORTION}
    if unused := sorted({name for part in (content, *frames) for name in part} - used - _BESIDE):
        warnings.warn(f"{where}: {', '.join(unused)} of its cameras are not used.", stacklevel=3)
    matrices, lenses = [], []
    for number, frame in enumerate(frames):
        said = {**content, **frame}
        model = said.get("camera_model", "OPENCV")
        bent = [name for name in _DISTORTION if said.get(name, 0) != 0]
        if model not in _PINHOLES or bent:
            came = f"the distortion {bent[0]}" if bent else f"a {model} camera"
            raise SettingsError(
                f"{where}: frame {number} has {came}; only pinhole cameras are taken. Undistort the images "
                "first."
            )
        matrices.append(frame.get("transform_matrix"))
        lenses.append(_lens(said, where, number))
    poses = _poses(matrices, where, "transform_matrix")
    poses = poses * torch.tensor(
        [1.0, -1.0, -1.0, 1.0], dtype=torch.float64
    )  # y up, z back -> y down, z forward
    sizes = [(frame.get("w", content.get("w")), frame.get("h", content.get("h"))) for frame in frames]
    if any(size != sizes[0] for size in sizes):
        raise SettingsError(f"{where} has frames of several sizes: a clip has one. Use images of one size.")
    width, height = sizes[0]
    order, names = _by_name(frames, where)
    return _path(poses[order], torch.stack(lenses)[order], width, height, where), names


def _by_name(frames: list[dict[str, Any]], where: object) -> tuple[list[int], tuple[str, ...]]:
    """Return the numbers of frames in the order of their images' names, and the names in that order."""
    names = [frame.get("file_path") for frame in frames]
    if not any(names):
        return list(range(len(frames))), ()
    if wrong := [number for number, name in enumerate(names) if not isinstance(name, str) or not name]:
        raise SettingsError(
            f"{where}: frame {wrong[0]} has no file_path, by which frames are put in order: add it."
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SettingsError(f"{where}: {twice[0]} is the image of two frames: keep one of them.")
    order = sorted(range(len(names)), key=lambda number: natural_key(str(names[number])))
    return order, tuple(str(names[number]) for number in order)


def _lens(said: Mapping[str, Any], where: object, number: int) -> Tensor:
    """Return fx, fy, cx, cy of one frame of nerfstudio; an angle of view stands for missing focal lengths."""
    lens = dict(said)
    if "fl_x" not in lens and "camera_angle_x" in lens and "w" in lens:
        width, angle = (_number(lens[name], where, name) for name in ("w", "camera_angle_x"))
        lens["fl_x"] = width / 2 / math.tan(angle / 2)
    lens.setdefault("fl_y", lens.get("fl_x"))
    for name, side in (("cx", "w"), ("cy", "h")):
        if name not in lens and side in lens:
            lens[name] = _number(lens[side], where, side) / 2
    if missing := [name for name in _LENSES if lens.get(name) is None]:
        raise SettingsError(
            f"{where}: frame {number} has no {missing[0]}: add it, or w, h and camera_angle_x."
        )
    return _numbers([lens[name] for name in _LENSES], where, ", ".join(_LENSES))


def _path(poses: Tensor, lenses: Tensor, width: Any, height: Any, where: object) -> CameraPath:
    for name, side in (("width", width), ("height", height)):
        if type(side) is not int or not 1 <= side <= MOST_SIDE:
            raise SettingsError(f"{where}: the {name} of the images must be pixels, from 1 to {MOST_SIDE:,}.")
    if not bool((lenses[:, :2] > 0).all()):
        raise SettingsError(f"{where}: focal lengths must be above 0.")
    return CameraPath(poses, lenses, width, height)


def _poses(given: Any, where: object, name: str) -> Tensor:
    """Return matrices of a file, F 4 4. Raises SettingsError unless they are rotations with translations."""
    return check_poses(_numbers(given, where, name), where, name)


def check_poses(poses: Tensor, where: object, name: str) -> Tensor:
    """Return matrices, F 4 4, as they are; where, name: for the error's sentence.

    Raises SettingsError unless they are rotations with translations.
    """
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise SettingsError(f"{where}: {name} must be 4x4 matrices, at least one.")
    turned = poses[:, :3, :3]
    off = (turned @ turned.transpose(1, 2) - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    last = (poses[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().amax(1)
    known = torch.isfinite(poses).flatten(1).all(1)
    wrong = (~known | (off > _ROTATION) | (torch.linalg.det(turned) < 0) | (last > _ROTATION)).nonzero()
    if len(wrong):
        raise SettingsError(
            f"{where}: {name} {int(wrong[0])} is not a rotation with a translation (camera-to-world): it "
            "scales, mirrors or projects, or has numbers that are not finite."
        )
    return poses


def _number(given: Any, where: object, name: str) -> float:
    """Return a number above 0 of a file. Raises SettingsError."""
    found = _numbers(given, where, name)
    if found.ndim or float(found) <= 0:
        raise SettingsError(f"{where}: {name} is {given!r}; it must be a number above 0.")
    return float(found)


def _numbers(given: Any, where: object, name: str) -> Tensor:
    try:
        found = torch.tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, OverflowError):
        raise SettingsError(f"{where}: {name} must be numbers, in lists of one length.") from None
    if not bool(torch.isfinite(found).all()):
        raise SettingsError(f"{where}: {name} must be finite numbers.")
    return found
