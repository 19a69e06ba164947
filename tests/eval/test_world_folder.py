"""True clips with cameras in a folder: which are one scene, what is left out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import DataError
from sanakit.eval.world_folder import inverted, list_scenes
from sanakit.pipelines.world.actions import TURNING, action_poses
from tests.eval.true_clips import LENS, PATHS, save_clip, save_scenes
from tests.pipelines.world.test_colmap import write
from tests.pipelines.world.test_realestate import lines


def test_clips_that_begin_with_one_frame_are_one_scene(tmp_path: Path) -> None:
    save_scenes(tmp_path, walls=2, paths=PATHS[:2])
    save_clip(tmp_path / "elsewhere", "alone", "w-8")
    scenes, notes = list_scenes(tmp_path)
    assert [[clip.clip.name for clip in scene.clips] for scene in scenes] == [
        ["0-a-16", "0-d-16"],
        ["1-a-16", "1-d-16"],
        ["elsewhere/alone"],
    ]
    assert notes == []
    assert torch.allclose(scenes[0].clips[0].lens, LENS)
    frames = scenes[0].clips[0].frames()
    assert frames.shape == (17, 64, 64, 3)
    assert np.array_equal(np.asarray(scenes[0].image()), frames[0])


def test_scenes_are_known_by_their_clips_cameras_and_prompts(tmp_path: Path) -> None:
    save_clip(tmp_path, "one", "w-8")
    keys = [list_scenes(tmp_path)[0][0].key]
    (tmp_path / "one.txt").write_text("a wall\n\nsecond line")
    (scene,), notes = list_scenes(tmp_path)
    assert (scene.clips[0].prompt, notes) == ("a wall", [])
    keys.append(scene.key)
    camera = json.loads((tmp_path / "one.json").read_text())
    camera["poses"][-1][0][3] = 0.5
    (tmp_path / "one.json").write_text(json.dumps(camera))
    keys.append(list_scenes(tmp_path)[0][0].key)
    frame = sorted((tmp_path / "one").glob("*.png"))[3]
    Image.new("RGB", (64, 64)).save(frame)
    keys.append(list_scenes(tmp_path)[0][0].key)
    assert len(set(keys)) == 4


def test_clips_without_a_camera_and_other_files_are_named(tmp_path: Path) -> None:
    save_scenes(tmp_path, paths=PATHS[:1])
    save_clip(tmp_path, "bare", "w-8")
    (tmp_path / "bare.json").unlink()
    (tmp_path / "lonely.json").write_text("{}")
    scenes, notes = list_scenes(tmp_path)
    assert len(scenes) == 1
    assert notes == [
        "Left out, as they are not clips: lonely.json.",
        "Not counted, for no camera (NAME.cameras.json) beside them: bare.",
    ]


def test_cameras_may_lie_there_as_for_training(tmp_path: Path) -> None:
    save_clip(tmp_path, "one", "wd-8")
    (scene,), _ = list_scenes(tmp_path)
    wanted, lens = scene.clips[0].camera, scene.clips[0].lens.tolist()
    (tmp_path / "one.json").rename(tmp_path / "one.cameras.json")
    (again,), _ = list_scenes(tmp_path)
    assert again.key == scene.key
    (tmp_path / "one.cameras.json").unlink()
    write(tmp_path / "one.cameras", wanted.poses, numbers=tuple(lens), size=(64, 64))
    (again,), notes = list_scenes(tmp_path)
    assert notes == []
    assert torch.allclose(again.clips[0].camera.poses, wanted.poses, atol=1e-12)
    assert torch.equal(again.clips[0].lens, scene.clips[0].lens)
    (tmp_path / "one.cameras.txt").write_text("\n".join(lines(wanted.poses)))
    with pytest.raises(DataError, match=r"one has two cameras, one\.cameras\.txt and one\.cameras: remove"):
        list_scenes(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda camera: (camera["poses"].pop(), camera["intrinsics"].pop()), "8 poses, and one 9 frames"),
        (lambda camera: camera.update(width=80), "is of images of 80x64 px, and one has 64x64"),
        (lambda camera: camera["intrinsics"][3].__setitem__(0, 90.0), "a lens that changes"),
        (lambda camera: camera.pop("poses"), "has neither poses nor frames"),
    ],
)
def test_a_camera_that_is_not_the_clips_is_refused(tmp_path: Path, change, sentence) -> None:
    save_clip(tmp_path, "one", "w-8")
    camera = json.loads((tmp_path / "one.json").read_text())
    change(camera)
    (tmp_path / "one.json").write_text(json.dumps(camera))
    with pytest.raises(DataError, match=sentence):
        list_scenes(tmp_path)


def test_a_folder_without_cameras_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path, "one", "w-8")
    (tmp_path / "one.json").unlink()
    with pytest.raises(
        DataError, match=r"has no clip with a camera: write the poses of NAME.mp4 into NAME.cameras.json"
    ):
        list_scenes(tmp_path)


def test_the_inverted_path_goes_the_other_way() -> None:
    """From any first pose: what turns right turns left, what steps ahead steps back."""
    start = action_poses("wa-30", TURNING)[-1]
    for there, back in (("w-8", "s-8"), ("l-8", "j-8"), ("d-8", "a-8")):
        path = start @ action_poses(there, TURNING)
        assert torch.allclose(inverted(path), action_poses(back, TURNING), atol=1e-12)
