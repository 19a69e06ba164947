"""Camera files of RealEstate10K: shares of the image become pixels, views become poses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.world.camera import inverse_pose
from sanakit.pipelines.world.realestate import read_realestate
from tests.models.world.worlds import poses


def lines(path: Tensor, *, first: int = 0) -> list[str]:
    views = inverse_pose(path)[:, :3].flatten(1).tolist()
    head = [0.5, 0.9, 0.5, 0.4, 0, 0]
    return [" ".join(map(repr, [first + 33_367 * n, *head, *view])) for n, view in enumerate(views)]


def test_a_file_gives_cameras_for_images_of_any_size(tmp_path: Path) -> None:
    wanted, file = poses(5), tmp_path / "path.txt"
    file.write_text("\n".join(["https://video", *lines(wanted)]) + "\n")
    path = read_realestate(file, (640, 360))
    torch.testing.assert_close(path.poses, wanted, atol=1e-12, rtol=0)
    assert path.intrinsics.tolist() == [[320, 324, 320, 144]] * 5
    assert (path.width, path.height) == (640, 360)
    file.write_text("\n".join(lines(wanted)))
    assert torch.equal(read_realestate(file, (640, 360)).poses, path.poses)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[0][:-1], "19 numbers"),
        (lambda rows: ["nan", *rows[0][1:]], "not finite"),
        (lambda rows: [*rows[0][:1], "-1", *rows[0][2:]], "focal lengths"),
        (lambda rows: [*rows[0][:5], "0.1", *rows[0][6:]], "distortion"),
        (lambda rows: [*rows[1][:1], *rows[0][1:]], "do not rise"),
        (lambda rows: [*rows[0][:7], "2", *rows[0][8:]], "is not a rotation"),
        (lambda rows: ["word", *rows[0][1:]], "19 numbers"),
    ],
)
def test_other_files_are_refused(change, reason: str, tmp_path: Path) -> None:
    rows = [line.split() for line in lines(poses(3))]
    rows[0] = change(rows)
    file = tmp_path / "path.txt"
    file.write_text("\n".join(map(" ".join, rows)))
    with pytest.raises(SettingsError, match=reason):
        read_realestate(file, (64, 64))


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "path.txt").write_text("https://video\n")
    with pytest.raises(SettingsError, match="no frames"):
        read_realestate(tmp_path / "path.txt", (64, 64))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_realestate(tmp_path / "none.txt", (64, 64))
