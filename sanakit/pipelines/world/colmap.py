"""Camera paths of COLMAP: a folder with cameras and images, as text or binary files.

An image's pose is world-to-camera there, a unit quaternion and a translation with OpenCV's axes; it is turned
round. Images come in the order of the numbers in their names. The scale of a reconstruction from images alone
is arbitrary. Only pinhole cameras are taken; a radial one whose distortion is 0 is one.
Source: COLMAP's documentation of its output format. Shapes: F frames.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sanakit.clips.counts import natural_key
from sanakit.errors import SettingsError
from sanakit.pipelines.world.paths import CameraPath, check_poses
from sanakit.reading import read_text, split_lines

# Model number -> name, parameters, and how many of them come before the distortion.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3, 3),
    1: ("PINHOLE", 4, 4),
    2: ("SIMPLE_RADIAL", 4, 3),
    3: ("RADIAL", 5, 3),
    4: ("OPENCV", 8, 4),
}
_NUMBERS = {name: number for number, (name, _, _) in MODELS.items()}


@dataclass(frozen=True, slots=True)
class _Camera:
    width: int
    height: int
    lens: tuple[float, ...]  # fx, fy, cx, cy in pixels


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    camera: int
    quaternion: tuple[float, ...]  # w, x, y, z
    translation: tuple[float, ...]


def is_colmap(place: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds cameras and images of COLMAP."""
    return any((Path(place) / f"cameras{end}").is_file() for end in (".bin", ".txt"))


def read_colmap(place: str | os.PathLike[str]) -> tuple[CameraPath, tuple[str, ...]]:
    """Return the cameras of a folder's images, and the images' names, both in the order of the names.

    Raises SettingsError for damaged files, cameras with distortion, and images of several sizes.
    """
    folder = Path(place)
    end = next((end for end in (".bin", ".txt") if (folder / f"cameras{end}").is_file()), None)
    if end is None:
        raise SettingsError(f"{folder} holds no cameras.bin and no cameras.txt: give a folder of COLMAP.")
    try:
        if end == ".bin":
            cameras = dict(_binary_cameras((folder / "cameras.bin").read_bytes(), folder))
            images = list(_binary_images((folder / "images.bin").read_bytes()))
        else:
            cameras = dict(_text_cameras(read_text(folder / "cameras.txt"), folder))
            images = list(_text_images(read_text(folder / "images.txt")))
        images.sort(key=lambda image: natural_key(image.name))
        seen = [cameras[image.camera] for image in images]
    except SettingsError:  # is a ValueError, too, but says itself what is wrong
        raise
    except OSError as error:
        raise SettingsError(f"{folder} cannot be read ({error.strerror}): check its files.") from None
    except (ValueError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise SettingsError(f"{folder} holds damaged files of COLMAP ({error}): export them again.") from None
    if not seen or any((one.width, one.height) != (seen[0].width, seen[0].height) for one in seen):
        raise SettingsError(
            f"{folder} has images of several sizes, or none: use a clip's images of one size."
        )
    poses = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    for pose, image in zip(poses, images, strict=True):
        turned = _rotation(torch.tensor(image.quaternion, dtype=torch.float64))
        pose[:3, :3] = turned.T
        pose[:3, 3] = -turned.T @ torch.tensor(image.translation, dtype=torch.float64)
    check_poses(poses, folder, "images")
    lenses = torch.tensor([one.lens for one in seen], dtype=torch.float64)
    path = CameraPath(poses, lenses, seen[0].width, seen[0].height)
    return path, tuple(image.name for image in images)


def _rotation(quaternion: torch.Tensor) -> torch.Tensor:
    """Return the rotation of a quaternion w, x, y, z, 3 3."""
    w, x, y, z = (quaternion / quaternion.norm()).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _camera(model: str, width: int, height: int, numbers: tuple[float, ...], where: Path) -> _Camera:
    """Return a camera. Raises SettingsError for one that is not a pinhole."""
    _, count, straight = MODELS.get(_NUMBERS.get(model, -1), ("", 0, 0))
    if not count or len(numbers) != count or any(numbers[straight:]):
        raise SettingsError(
            f"{where} has a {model} camera with distortion, or of an unknown kind; only pinhole cameras are "
            "taken. Undistort the images first (colmap image_undistorter)."
        )
    lens = numbers[:4] if straight == 4 else (numbers[0], numbers[0], numbers[1], numbers[2])
    if not all(map(math.isfinite, lens)) or min(lens[:2]) <= 0 or min(width, height) < 1:
        raise SettingsError(f"{where} has a camera without a size, focal length or centre: export it again.")
    return _Camera(width, height, lens)


def _text_cameras(text: str, where: Path) -> Iterator[tuple[int, _Camera]]:
    for line in split_lines(text):
        if line.strip() and not line.startswith("#"):
            number, model, width, height, *rest = line.split()
            yield int(number), _camera(model, int(width), int(height), tuple(map(float, rest)), where)


def _text_images(text: str) -> Iterator[_Image]:
    lines = [line for line in split_lines(text) if not line.startswith("#")]
    while lines and not lines[0].strip():
        lines.pop(0)
    for line in lines[::2]:  # behind each image is a line of its points, which may be empty
        if line.strip():
            _, *numbers, camera, name = line.split(maxsplit=9)
            values = tuple(map(float, numbers))
            yield _Image(name.strip(), int(camera), values[:4], values[4:7])


def _binary_cameras(content: bytes, where: Path) -> Iterator[tuple[int, _Camera]]:
    (count,), place = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        number, model, width, height = struct.unpack_from("<iiQQ", content, place)
        place += 24
        name, parameters, _ = MODELS.get(model, (f"number {model}", 0, 0))
        numbers = struct.unpack_from(f"<{parameters}d", content, place)
        place += 8 * parameters
        yield number, _camera(name, width, height, numbers, where)


def _binary_images(content: bytes) -> Iterator[_Image]:
    (count,), place = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        _, *numbers, camera = struct.unpack_from("<i7di", content, place)
        place += 64
        end = content.index(b"\0", place)
        name = content[place:end].decode("utf-8")
        (points,) = struct.unpack_from("<Q", content, end + 1)
        place = end + 9 + 24 * points
        if place > len(content):
            raise ValueError("images.bin ends early")
        yield _Image(name, camera, tuple(numbers[:4]), tuple(numbers[4:]))
