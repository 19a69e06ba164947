"""Camera paths of RealEstate10K: a text file with a line for each frame.

A line holds a time in microseconds; fx, fy, cx, cy as shares of the image's width and height; two numbers
that are 0; and the 3x4 matrix from the world to the camera row by row, with OpenCV's axes. The first line may
be the address of the video. The scale of a path is arbitrary.
Source: RealEstate10K's description of its files. Shapes: F frames.
"""

from __future__ import annotations

import os

import torch

from sanakit.errors import SettingsError
from sanakit.models.world.camera import inverse_pose
from sanakit.pipelines.world.paths import CameraPath, check_poses
from sanakit.reading import read_text, split_lines

_COLUMNS = 19


def read_realestate(path: str | os.PathLike[str], size: tuple[int, int]) -> CameraPath:
    """Return the cameras of a file for images of a size, width and height in pixels.

    Raises SettingsError for a file of another form, distortion, and times that do not rise.
    """
    try:
        lines = [line.split() for line in split_lines(read_text(path)) if line.strip()]
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    if lines and len(lines[0]) == 1:
        lines.pop(0)  # the address
    rows: list[list[float]] = []
    for number, words in enumerate(lines):
        try:
            row = list(map(float, words))
        except ValueError:
            row = []
        if len(row) != _COLUMNS:
            raise SettingsError(
                f"{path}: frame {number} is not {_COLUMNS} numbers, as RealEstate10K has them: a time, fx, "
                "fy, cx, cy, 0, 0 and a 3x4 matrix."
            )
        rows.append(row)
    if not rows:
        raise SettingsError(f"{path} has no frames: give a file as RealEstate10K has them.")
    table = torch.tensor(rows, dtype=torch.float64)
    if not bool(torch.isfinite(table).all()) or not bool((table[:, 1:3] > 0).all()):
        raise SettingsError(
            f"{path} holds numbers that are not finite, or focal lengths of 0 or below: export it again."
        )
    if bool(table[:, 5:7].any()):
        raise SettingsError(
            f"{path} has cameras with distortion; only pinhole cameras are taken. Undistort the frames first."
        )
    if bool((table[1:, 0] <= table[:-1, 0]).any()):
        raise SettingsError(f"{path} has times that do not rise: sort its lines by time.")
    views = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    views[:, :3] = table[:, 7:].unflatten(1, (3, 4))
    check_poses(views, path, "frame")
    width, height = size
    scale = torch.tensor([width, height, width, height], dtype=torch.float64)
    return CameraPath(inverse_pose(views), table[:, 1:5] * scale, width, height)
