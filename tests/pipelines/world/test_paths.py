"""Camera paths in files: axes of OpenGL turned, lenses cropped as diffusers crops them, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.sana_wm.cam_utils import resize_and_center_crop, transform_intrinsics_for_crop
from PIL import Image

from sanakit.errors import OutputError, SettingsError
from sanakit.pipelines.world.actions import STRAFING, action_poses
from sanakit.pipelines.world.paths import CameraPath, pinhole, read_named_path, read_path

POSES = action_poses("dw-3,li-4", STRAFING)
LENS = [500.0, 510.0, 320.0, 240.0]


def written(folder: Path, content: object) -> Path:
    path = folder / "path.json"
    path.write_text(json.dumps(content))
    return path


def ours(**change: object) -> dict[str, object]:
    return {"width": 640, "height": 480, "intrinsics": LENS, "poses": POSES.tolist()} | change


def nerfstudio(**change: object) -> dict[str, object]:
    turned = POSES @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    shared = dict(zip(("fl_x", "fl_y", "cx", "cy"), LENS, strict=True))
    frames = [{"file_path": f"{n}.png", "transform_matrix": pose.tolist()} for n, pose in enumerate(turned)]
    return {"camera_model": "OPENCV", "w": 640, "h": 480, "k1": 0.0, **shared, "frames": frames} | change


def named(*names: str) -> dict[str, object]:
    frames = [{"file_path": name, "transform_matrix": torch.eye(4).tolist()} for name in names]
    return nerfstudio(frames=frames)


def test_our_own_file_is_read_as_it_was_written(tmp_path):
    lenses = torch.tensor(LENS, dtype=torch.float64) + torch.arange(8, dtype=torch.float64)[:, None]
    path = CameraPath(POSES, lenses, 640, 480)
    path.save(tmp_path / "walk.json")
    read = read_path(tmp_path / "walk.json")
    assert torch.equal(read.poses, POSES)
    assert torch.equal(read.intrinsics, lenses)
    assert (read.width, read.height) == (640, 480)


def test_one_lens_is_for_all_frames(tmp_path):
    assert read_path(written(tmp_path, ours())).intrinsics.tolist() == [LENS] * 8


def test_frames_of_nerfstudio_get_opencvs_axes(tmp_path):
    read = read_path(written(tmp_path, nerfstudio()))
    assert (read.poses - POSES).abs().max() < 1e-15
    assert read.intrinsics.tolist() == [LENS] * 8
    up = torch.eye(4).tolist()  # OpenGL's identity looks along -z with y up
    single = read_path(written(tmp_path, nerfstudio(frames=[{"transform_matrix": up}])))
    assert single.poses[0, :3, 2].tolist() == [0, 0, -1]  # where it looks
    assert single.poses[0, :3, 1].tolist() == [0, -1, 0]  # where its down is


def test_frames_of_nerfstudio_are_in_the_order_of_their_names(tmp_path):
    """Numbers as numbers: 9.png before 10.png. Each frame keeps its lens; without names the file rules."""
    content = nerfstudio()
    frames = content["frames"]
    assert isinstance(frames, list)
    for number, frame in enumerate(frames):
        frame |= {"file_path": f"images/{number + 7}.png", "fl_x": 500.0 + number}
    shuffled = {**content, "frames": [frames[number] for number in (3, 7, 0, 5, 1, 6, 2, 4)]}
    path, names = read_named_path(written(tmp_path, shuffled))
    assert (path.poses - POSES).abs().max() < 1e-15
    assert path.intrinsics[:, 0].tolist() == [500.0 + number for number in range(8)]
    assert names == tuple(f"images/{number + 7}.png" for number in range(8))
    for frame in frames:
        del frame["file_path"]
    path, names = read_named_path(written(tmp_path, shuffled))
    assert path.intrinsics[:, 0].tolist() == [503.0, 507, 500, 505, 501, 506, 502, 504]
    assert names == ()


def test_a_frames_own_lens_comes_first_and_an_angle_stands_for_one(tmp_path):
    content = nerfstudio()
    frames = content["frames"]
    assert isinstance(frames, list)
    frames[2]["fl_x"] = 700.0
    read = read_path(written(tmp_path, content))
    assert read.intrinsics[:, 0].tolist() == [500, 500, 700, 500, 500, 500, 500, 500]
    angled = {name: value for name, value in nerfstudio().items() if name not in ("fl_x", "fl_y", "cx", "cy")}
    read = read_path(written(tmp_path, {**angled, "camera_angle_x": math.radians(90)}))
    assert (read.intrinsics[0] - torch.tensor([320.0, 320.0, 320.0, 240.0])).abs().max() < 1e-9


@pytest.mark.parametrize("size", [(640, 480), (1920, 800), (300, 700), (1281, 704)])
def test_lenses_of_a_crop_are_those_of_diffusers(size):
    width, height = size
    path = CameraPath(POSES, torch.tensor([LENS] * 8, dtype=torch.float64), width, height)
    _, source, resized, corner = resize_and_center_crop(Image.new("RGB", size), 704, 1280)
    theirs = transform_intrinsics_for_crop(np.array(LENS), source, resized, corner)
    found = path.covering(1280, 704)
    assert (found.intrinsics - torch.from_numpy(theirs)).abs().max() < 1e-9
    assert (found.width, found.height) == (1280, 704)


def test_a_pinhole_sees_its_angle():
    fx, fy, cx, cy = pinhole(640, 480, 60).tolist()
    assert abs(2 * math.degrees(math.atan(320 / fx)) - 60) < 1e-9
    assert (fy, cx, cy) == (fx, 320, 240)
    with pytest.raises(SettingsError, match="between 0 and 180"):
        pinhole(640, 480, 180)


SCALED = (2 * torch.eye(4)).tolist()
MIRRORED = torch.diag(torch.tensor([-1.0, 1, 1, 1])).tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "neither poses nor frames"),
        ({"views": []}, "neither poses nor frames"),
        (ours(poses=[]), "poses must be 4x4 matrices"),
        (ours(poses=[[1, 2]]), "poses must be 4x4 matrices"),
        (ours(poses=[SCALED]), "poses 0 is not a rotation"),
        (ours(poses=[torch.eye(4).tolist(), MIRRORED]), "poses 1 is not a rotation"),
        (ours(poses="none"), "poses must be numbers"),
        (ours(poses=[[[math.nan] * 4] * 4]), "poses must be finite"),
        (ours(intrinsics=[1, 2, 3]), "once, or for each of 8 poses"),
        (ours(intrinsics=None), "intrinsics must be numbers"),
        (ours(intrinsics=[0, 1, 1, 1]), "focal lengths must be above 0"),
        (ours(width="640"), "the width of the images must be pixels"),
        (ours(height=0), "the height of the images must be pixels"),
        (ours(fps=16), "an unknown fps"),
        (nerfstudio(frames=[]), "frames must be a list"),
        (nerfstudio(frames=[{}]), "transform_matrix must be numbers"),
        (nerfstudio(k1=0.1), "frame 0 has the distortion k1"),
        (named("0.png", ""), "frame 1 has no file_path"),
        (named("0.png", "0.png"), "0.png is the image of two frames"),
        (nerfstudio(camera_model="OPENCV_FISHEYE"), "frame 0 has a OPENCV_FISHEYE camera"),
        (nerfstudio(fl_x=None), "frame 0 has no fl_x"),
    ],
)
def test_files_that_are_not_a_path_are_refused(tmp_path, content, said):
    with pytest.raises(SettingsError, match=said):
        read_path(written(tmp_path, content))


@pytest.mark.parametrize("field", ["w", "camera_angle_x", "fl_x"])
@pytest.mark.parametrize("value", [[1], 0, -1, 10**400, "wide", None])
def test_a_lens_that_is_no_lens_is_refused(tmp_path, field, value):
    content = nerfstudio()
    if field == "camera_angle_x":
        del content["fl_x"]
    content[field] = value
    with pytest.raises(SettingsError):
        read_path(written(tmp_path, content))


def test_frames_of_several_sizes_are_refused(tmp_path):
    content = nerfstudio()
    frames = content["frames"]
    assert isinstance(frames, list)
    frames[1]["w"] = 320
    with pytest.raises(SettingsError, match="frames of several sizes"):
        read_path(written(tmp_path, content))


def test_files_that_are_not_json_or_not_there_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("w-24")
    twice = written(tmp_path, ours()).read_text().replace("{", '{"width": 64, ', 1)
    (tmp_path / "twice.json").write_text(twice)
    said_of = {"a.json": "is not JSON", "b.json": "cannot be read", "twice.json": "it says 'width' twice"}
    for name, said in said_of.items():
        with pytest.raises(SettingsError, match=said):
            read_path(tmp_path / name)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        CameraPath(POSES, torch.ones(8, 4), 640, 480).save(tmp_path / "none" / "walk.json")


def test_fields_of_nerfstudio_that_are_not_used_are_named(tmp_path):
    with pytest.warns(UserWarning, match="aabb_scale, rolling of its cameras are not used"):
        read_path(written(tmp_path, nerfstudio(aabb_scale=16, rolling=1)))
