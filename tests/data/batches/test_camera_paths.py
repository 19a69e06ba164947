"""Clips with camera paths beside them: found in every form, checked, and cut as the frames are."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

from sanakit.data.batches.camera_paths import PosedClips, camera_numbers, cut_path
from sanakit.data.batches.clip_sampling import ClipOptions, open_paths
from sanakit.data.read.decode import scale_and_cut
from sanakit.data.read.index import scan
from sanakit.errors import DataError, SettingsError
from sanakit.pipelines.world.paths import CameraPath, pinhole
from tests.data.clip_files import counted
from tests.models.world.worlds import poses
from tests.pipelines.world.test_colmap import write
from tests.pipelines.world.test_realestate import lines

FRAMES = 5
RATE = Fraction(16)


def path_of(frames: int = FRAMES, side: tuple[int, int] = (32, 32)) -> CameraPath:
    return CameraPath(poses(frames), pinhole(*side, 60).expand(frames, 4), *side)


def nerfstudio(path: CameraPath, names: list[str]) -> str:
    flip = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": (pose * flip).tolist()}
        for name, pose in zip(names, path.poses, strict=True)
    ]
    fx, fy, cx, cy = path.intrinsics[0].tolist()
    content = {"w": path.width, "h": path.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
    return json.dumps(content | {"frames": frames[::-1]})  # out of order, as exports may be


def frame_folder(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (32, 32), "red").save(folder / name)


def clips(place: Path, rate: int | None = None) -> PosedClips:
    return open_paths(place, ClipOptions(frame_rate=rate))


def test_paths_are_found_in_every_form(tmp_path: Path) -> None:
    wanted = path_of()
    for name in ("ours", "estate", "colmap"):
        counted(tmp_path / f"{name}.webp", FRAMES, caption=name)
    wanted.save(tmp_path / "ours.cameras.json")
    (tmp_path / "estate.cameras.txt").write_text("\n".join(["https://a", *lines(wanted.poses)]))
    write(tmp_path / "colmap.cameras", wanted.poses)
    names = [f"{number}.png" for number in range(8, 8 + FRAMES)]  # 9.png comes before 10.png
    frame_folder(tmp_path / "scene" / "images", names)
    (tmp_path / "scene" / "transforms.json").write_text(nerfstudio(wanted, names))
    found = clips(tmp_path, 16)
    assert [found.key(n) for n in range(4)] == ["colmap.webp", "estate.webp", "ours.webp", "scene/images"]
    assert found.ignored == {}
    assert [one.text for one in found.captions(2)] == ["ours"]
    index = scan(found)
    assert set(index.broken) == {0}  # COLMAP's images are of 320x240, the clip of 32x32
    assert "320x240" in index.broken[0]
    relative = camera_numbers(wanted)
    for number in (1, 2, 3):
        numbers = found.cameras(number, (FRAMES, 32, 32), RATE)
        torch.testing.assert_close(numbers[:, :16], relative[:, :16], atol=1e-6, rtol=0)
    assert torch.equal(found.cameras(2, (FRAMES, 32, 32), RATE), relative)
    assert found.cameras(1, (FRAMES, 32, 32), RATE)[0, 16:].tolist() == pytest.approx([16, 28.8, 16, 12.8])


def test_cameras_are_those_of_the_frames_that_are_taken(tmp_path: Path) -> None:
    """At half the rate every other pose stands, relative to the first that is taken."""
    counted(tmp_path / "a.webp", 9)
    path_of(9).save(tmp_path / "a.cameras.json")
    numbers = clips(tmp_path).cameras(0, (4, 32, 32), Fraction(8))
    torch.testing.assert_close(numbers, camera_numbers(path_of(9))[:8:2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(24, 24), (16, 40), (40, 16), (30, 50)])
def test_intrinsics_follow_the_cut_and_the_scale_of_frames(size: tuple[int, int]) -> None:
    """A dot of the image keeps its ray: where it lands after the cut is where the cut lens puts the ray."""
    side, at = (64, 48), (37, 21)  # width and height; column and row
    pixels = torch.zeros(3, side[1], side[0], dtype=torch.uint8)
    pixels[:, at[1] - 1 : at[1] + 2, at[0] - 1 : at[0] + 2] = 255
    cut = scale_and_cut(pixels, *size)[0].float()
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    there = [float((cut * places).sum() / cut.sum()) for places in (columns, rows)]
    path = CameraPath(poses(1), torch.tensor([[50.0, 45.0, 30.0, 25.0]], dtype=torch.float64), *side)
    before, after = path.intrinsics[0].tolist(), cut_path(path, *size).intrinsics[0].tolist()
    for axis in (0, 1):
        ray = (at[axis] + 0.5 - before[2 + axis]) / before[axis]
        assert after[axis] * ray + after[2 + axis] == pytest.approx(there[axis], abs=0.15)


def test_relative_poses_keep_their_digits_far_from_the_origin() -> None:
    """A kilometre away float32 knows 0.06 mm at best; relative poses are rounded after the difference."""
    far = path_of()
    far.poses[:, :3, 3] += torch.tensor([123_456.0, -98_765.0, 55_555.0], dtype=torch.float64)
    torch.testing.assert_close(camera_numbers(far), camera_numbers(path_of()), atol=1e-6, rtol=0)


def test_clips_without_a_fitting_path_are_broken_and_the_reason_is_told(tmp_path: Path) -> None:
    for name in ("none", "short", "two", "wide"):
        counted(tmp_path / f"{name}.webp", FRAMES)
    path_of(4).save(tmp_path / "short.cameras.json")
    path_of().save(tmp_path / "two.cameras.json")
    (tmp_path / "two.cameras.txt").write_text("")
    path_of(side=(64, 32)).save(tmp_path / "wide.cameras.json")
    names = [f"{number}.png" for number in range(FRAMES)]
    frame_folder(tmp_path / "named", names)
    (tmp_path / "named.cameras.json").write_text(nerfstudio(path_of(), ["other.png", *names[1:]]))
    found = clips(tmp_path, 16)
    reasons = {found.key(number): reason for number, reason in scan(found).broken.items()}
    assert reasons == {
        "named": "has the frame 0.png where named.cameras.json has other.png: give the path of these frames.",
        "none.webp": "has no camera path: add NAME.cameras.json beside NAME.mp4.",
        "short.webp": "has 5 frames, but short.cameras.json has 4 poses: give one for each frame.",
        "two.webp": "has two camera paths, two.cameras.json and two.cameras.txt: remove one.",
        "wide.webp": "has frames of 32x32 px, but wide.cameras.json is of images of 64x32: give the path of "
        "these frames.",
    }


def test_another_path_is_other_data(tmp_path: Path) -> None:
    counted(tmp_path / "a.webp", FRAMES)
    path_of().save(tmp_path / "a.cameras.json")
    before = clips(tmp_path).fingerprint()
    assert clips(tmp_path).fingerprint() == before
    text = (tmp_path / "a.cameras.json").read_text()
    (tmp_path / "a.cameras.json").write_text(text + " ")
    assert clips(tmp_path).fingerprint() != before


def test_what_paths_do_not_go_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        open_paths(tmp_path / "shard.tar", ClipOptions())
    with pytest.raises(SettingsError, match="motion score"):
        open_paths(tmp_path, ClipOptions(motion=10))
    with pytest.raises(SettingsError, match="repetition"):
        open_paths(tmp_path, ClipOptions(repeat=True))
