"""Cameras of COLMAP: text and binary files say the same, and projection is as COLMAP defines it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.world.camera import inverse_pose
from sanakit.pipelines.world.colmap import is_colmap, read_colmap
from tests.models.world.worlds import poses

LENS = (300.0, 310.0, 160.0, 120.0)


def quaternion(turned: Tensor) -> list[float]:
    """w, x, y, z of a rotation whose w is not small."""
    w = (1 + turned.diagonal().sum()).sqrt() / 2
    x, y, z = turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]
    return [float(w), *(float(one / (4 * w)) for one in (x, y, z))]


def write(
    folder: Path,
    cameras_to_world: Tensor,
    *,
    model: str = "PINHOLE",
    numbers: tuple[float, ...] = LENS,
    size: tuple[int, int] = (320, 240),
) -> Path:
    """Write text files, the images in another order than that of their names, each with a line of points."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = " ".join(map(str, numbers))
    (folder / "cameras.txt").write_text(f"# cameras\n7 {model} {size[0]} {size[1]} {parameters}\n")
    lines = ["# images"]
    for number, view in reversed(list(enumerate(inverse_pose(cameras_to_world)))):
        values = [*quaternion(view[:3, :3]), *view[:3, 3].tolist()]
        lines += [
            f"{number + 1} {' '.join(map(repr, values))} 7 frame {number}.png",
            "" if number % 2 else "1 2 -1",
        ]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_binary(
    folder: Path, cameras_to_world: Tensor, model: int = 1, numbers: tuple[float, ...] = LENS
) -> Path:
    folder.mkdir(parents=True)
    content = struct.pack("<QiiQQ", 1, 7, model, 320, 240) + struct.pack(f"<{len(numbers)}d", *numbers)
    (folder / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(cameras_to_world))
    for number, view in reversed(list(enumerate(inverse_pose(cameras_to_world)))):
        values = [*quaternion(view[:3, :3]), *view[:3, 3].tolist()]
        content += struct.pack("<i7di", number + 1, *values, 7) + f"frame {number}.png\0".encode()
        content += struct.pack("<Q", number) + struct.pack("<ddq", 1.0, 2.0, -1) * number
    (folder / "images.bin").write_bytes(content)
    return folder


def test_text_and_binary_files_give_camera_to_world_in_the_order_of_names(tmp_path: Path) -> None:
    wanted = poses(11)  # more than ten: frame 10 does not stand behind frame 1
    for folder in (write(tmp_path / "text", wanted), write_binary(tmp_path / "binary", wanted)):
        assert is_colmap(folder)
        path, names = read_colmap(folder)
        assert names == tuple(f"frame {number}.png" for number in range(11))
        torch.testing.assert_close(path.poses, wanted, atol=1e-12, rtol=0)
        assert path.intrinsics.tolist() == [list(LENS)] * 11
        assert (path.width, path.height) == (320, 240)
    assert not is_colmap(tmp_path)


def test_a_quaternion_is_the_rotation_that_colmap_means(tmp_path: Path) -> None:
    """A quarter turn about z: the world's x axis becomes the camera's y axis."""
    folder = write(tmp_path, torch.eye(4, dtype=torch.float64)[None])
    half = 0.5**0.5
    (folder / "images.txt").write_text(f"1 {half} 0 0 {half} 1 2 3 7 a.png\n\n")
    path, _ = read_colmap(folder)
    x_axis = path.poses[0, :3, :3].T @ torch.tensor([1.0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(x_axis, torch.tensor([0, 1.0, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    origin = path.poses[0, :3, :3].T @ -path.poses[0, :3, 3]
    torch.testing.assert_close(origin, torch.tensor([1.0, 2, 3], dtype=torch.float64))


def test_radial_cameras_without_distortion_are_pinholes(tmp_path: Path) -> None:
    path, _ = read_colmap(write(tmp_path, poses(3), model="SIMPLE_RADIAL", numbers=(300, 160, 120, 0)))
    assert path.intrinsics[0].tolist() == [300, 300, 160, 120]


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        ("SIMPLE_RADIAL", (300, 160, 120, 0.1)),
        ("OPENCV_FISHEYE", (1, 1, 1, 1, 0, 0, 0, 0)),
        ("PINHOLE", (1, 2)),
    ],
)
def test_other_cameras_are_refused(model: str, numbers: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^\S+ has a {model} camera .*Undistort"):
        read_colmap(write(tmp_path, poses(3), model=model, numbers=numbers))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    nan, folder = float("nan"), write(tmp_path, poses(3))
    for image in ("0 0 0 0 1 2 3", "1 0 0 0 1 inf 3"):
        (folder / "images.txt").write_text(f"1 {image} 7 a.png\n\n")
        with pytest.raises(SettingsError, match="images 0 is not a rotation"):
            read_colmap(folder)
    with pytest.raises(SettingsError, match="focal length or centre"):
        read_colmap(write(tmp_path, poses(3), numbers=(1, 1, nan, 1)))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write_binary(tmp_path / "cut", poses(3))
    content = (folder / "images.bin").read_bytes()
    for end in (4, 40, len(content) - 1):
        (folder / "images.bin").write_bytes(content[:end])
        with pytest.raises(SettingsError, match="damaged"):
            read_colmap(folder)
    (folder / "images.bin").unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        read_colmap(folder)
    with pytest.raises(SettingsError, match=r"no cameras\.bin"):
        read_colmap(tmp_path)
    folder = write(tmp_path / "text", poses(3))
    (folder / "cameras.txt").write_text("7 PINHOLE 320 240 1 1 1 1\n8 PINHOLE 100 240 1 1 1 1\n")
    text = (folder / "images.txt").read_text().replace("7 frame 2", "8 frame 2")
    (folder / "images.txt").write_text(text)
    with pytest.raises(SettingsError, match="several sizes"):
        read_colmap(folder)
