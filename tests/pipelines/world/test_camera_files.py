"""A camera path is told by its place: a folder, a text file, or JSON; one path in all forms is one path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.pipelines.world.camera_files import read_cameras
from sanakit.pipelines.world.paths import CameraPath
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


def test_other_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no cameras\.bin"):
        read_cameras(tmp_path, (64, 64))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_cameras(tmp_path / "none", (64, 64))
