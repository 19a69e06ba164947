"""A camera path is told by its place: a folder, a text file, or JSON; one path in all forms is one path."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sanakit.data.batches.camera_paths import camera_numbers
from sanakit.data.batches.clip_sampling import ClipOptions, open_paths
from sanakit.errors import SettingsError
from sanakit.pipelines.world.camera_files import read_cameras
from sanakit.pipelines.world.paths import CameraPath, pinhole
from tests.data.batches.test_camera_paths import frame_folder, nerfstudio
from tests.models.world.worlds import poses
from tests.pipelines.world.test_colmap import write
from tests.pipelines.world.test_realestate import lines


def test_all_forms_give_one_path(tmp_path: Path) -> None:
    wanted, lens, size = poses(5), (320.0, 324.0, 320.0, 144.0), (640, 360)
    lenses = torch.tensor([lens] * 5, dtype=torch.float64)
    CameraPath(wanted, lenses, *size).save(tmp_path / "path.json")
    (tmp_path / "path.TXT").write_text("\n".join(lines(wanted)))
    write(tmp_path / "sparse", wanted, numbers=lens, size=size)
    for name, images in (("path.json", 0), ("path.TXT", 0), ("sparse", 5)):
        path, names = read_cameras(tmp_path / name, size)
        torch.testing.assert_close(path.poses, wanted, atol=1e-12, rtol=0)
        assert torch.equal(path.intrinsics, lenses)
        assert (path.width, path.height, len(names)) == (*size, images)


def test_nerfstudios_frames_steer_and_train_in_one_order(tmp_path: Path) -> None:
    """`sana world --camera` and training read by name, not as the file lists them."""
    wanted = poses(5)
    lens = pinhole(32, 32, 60).expand(5, 4)
    names = [f"{number}.png" for number in range(8, 13)]
    frame_folder(tmp_path / "scene" / "images", names)
    content = nerfstudio(CameraPath(wanted, lens, 32, 32), names)
    assert [Path(frame["file_path"]).name for frame in json.loads(content)["frames"]] == names[::-1]
    (tmp_path / "scene" / "transforms.json").write_text(content)
    path, found = read_cameras(tmp_path / "scene" / "transforms.json", (32, 32))
    torch.testing.assert_close(path.poses, wanted, atol=1e-12, rtol=0)
    assert [Path(name).name for name in found] == names
    trained = open_paths(tmp_path, ClipOptions(frame_rate=16)).cameras(0, (5, 32, 32), Fraction(16))
    torch.testing.assert_close(trained, camera_numbers(path), atol=1e-6, rtol=0)


def test_other_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no cameras\.bin"):
        read_cameras(tmp_path, (64, 64))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_cameras(tmp_path / "none", (64, 64))
