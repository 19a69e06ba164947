"""`sana world`: clips along keys and files of poses; what is printed, and what is refused before loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanakit.clips.reading import open_clip
from sanakit.pipelines.world.actions import action_poses
from sanakit.pipelines.world.camera_files import read_cameras
from sanakit.pipelines.world.paths import CameraPath, pinhole, read_path
from sanakit.pipelines.world.world import World
from tests.pipelines.world.test_colmap import write
from tests.pipelines.world.test_realestate import lines
from tests.pipelines.world.tiny import AUTOENCODER, STREAMING, photo, save_world


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_world(tmp_path_factory.mktemp("world") / "model")


@pytest.fixture
def world(sana, model: Path):
    """Run `sana world` with the tiny model; photo.png and camera.json lie there."""
    photo().save("photo.png")
    poses = action_poses("wd-8")
    CameraPath(poses, pinhole(96, 64, 70).expand(len(poses), 4), 96, 64).save("camera.json")

    def run(*words: object):
        return sana("world", "photo.png", "--model", model, "--seed", 7, "--steps", 1, *words)

    return run


def drawn(path: str):
    with open_clip(path) as clip:
        return clip.read()


def test_keys_become_a_clip_that_carries_its_settings(world, sana, model) -> None:
    outcome = world("--path", "w-4,d-4", "--fov", 70, "--prompt", "a harbour", "--fps", 8, "-o", "a.webp")
    assert (outcome.code, outcome.out, outcome.err) == (0, "a.webp  seed 7\n", "")
    clip = drawn("a.webp")
    assert (clip.frames.shape, clip.rate) == ((9, 64, 96, 3), 8)
    wanted = World.from_pretrained(model, device="cpu")(
        photo(), "a harbour", path="w-4,d-4", fov=70, steps=1, seed=7
    )
    assert clip.settings == wanted.metadata[0]
    told = sana("inspect", "a.webp").out
    assert "w-4,d-4" in told
    assert "turning" in told


def test_a_file_of_poses_leads_the_camera(world, model) -> None:
    assert world("--camera", "camera.json", "--output", "frames").code == 0
    pipe = World.from_pretrained(model, device="cpu")
    wanted = pipe(photo(), path=read_path("camera.json"), steps=1, seed=7)
    clip = drawn("frames")
    assert np.array_equal(clip.frames, wanted.frames)
    assert clip.settings["path"] == wanted.metadata[0]["path"]


@pytest.mark.parametrize("camera", ["path.txt", "sparse"])
def test_realestate_and_colmap_lead_the_camera_too(camera: str, world, model) -> None:
    poses = action_poses("wd-8")
    Path("path.txt").write_text("\n".join(lines(poses)))
    write(Path("sparse"), poses, numbers=(80.0, 80.0, 160.0, 120.0), size=(320, 213))
    assert world("--camera", camera, "--output", "frames").code == 0
    pipe = World.from_pretrained(model, device="cpu")
    wanted = pipe.checked(photo(), path=read_cameras(camera, photo().size)[0], steps=1, seed=7)
    assert drawn("frames").settings["path"] == wanted.clip.sampling.metadata[0]["path"]


def test_one_process_walks(world, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = world("--path", "w-8", "--output", "frames")
    assert (refused.code, Path("frames").exists()) == (2, False)
    assert "sana world is for one process: start it without torchrun." in refused.err


def test_json_tells_frames_that_are_left_out_and_what_is_not_known(world) -> None:
    outcome = world("--path", "w-10", "--output", "a.gif", "--keys", "strafing", "--json")
    report = json.loads(outcome.out)
    assert (report["clips"][0]["frames"], report["clips"][0]["keys"]) == (9, "strafing")
    assert any("has 11 frames with its start; the first 9 are drawn" in told for told in report["warnings"])
    assert any("60 degrees are taken" in told for told in report["warnings"])
    assert all(f"Warning: {told}" in outcome.err for told in report["warnings"])


def test_fields_of_a_camera_file_that_are_not_used_are_told(world) -> None:
    frames = [{"transform_matrix": np.eye(4).tolist()} for _ in range(9)]
    content = {"w": 96, "h": 64, "fl_x": 80.0, "aabb_scale": 16, "frames": frames}
    Path("transforms.json").write_text(json.dumps(content))
    outcome = world("--camera", "transforms.json", "--output", "a.webp")
    assert outcome.code == 0
    assert "aabb_scale of its cameras are not used" in outcome.err


def test_streaming_models_write_chunk_after_chunk(sana, tmp_path) -> None:
    causal = replace(AUTOENCODER, decoder_causal=True)
    model = save_world(tmp_path / "streaming", STREAMING, causal)
    photo().save("photo.png")
    called = ("--model", model, "--seed", 7, "--path", "w-48", "--fov", 60)
    assert sana("world", "photo.png", *called, "--output", "a").code == 0
    clip = drawn("a")
    wanted = World.from_pretrained(model, device="cpu")(photo(), path="w-48", fov=60, seed=7)
    assert np.array_equal(clip.frames, wanted.frames)
    assert clip.settings == wanted.metadata[0]
    replaced = sana("world", "photo.png", *called, "--output", "a")
    assert (replaced.code, "a is replaced." in replaced.err) == (0, True)
    assert sana("world", "photo.png", *called, "--memory", "1KB").code == 2
    outcome = sana("world", "photo.png", *called, "--steps", 9)
    assert outcome.code == 2
    assert "is distilled to 4 steps" in outcome.err


def test_no_model_is_embedded_and_that_is_said_with_the_remedy(sana) -> None:
    outcome = sana("world", "photo.png", "--path", "w-8")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: No world model is embedded: name one with --model")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], 'give --path "w-24,d-48", or --camera FILE'),
        (["--path", "w-8", "--camera", "camera.json"], "is needed once"),
        (["--path", "w8"], "is not an action"),
        (["--path", "w-2"], "Go 8 frames or further"),
        (["--path", "w-8", "--frames", 8], "but 9 are the fewest that can be drawn"),
        (["--path", "w-8", "--size", "95x64"], "nearest such size is 96x64"),
        (["--path", "w-8", "--fov", 10], "from 25 to 120 degrees"),
        (["--path", "w-8", "--fov", 60, "--intrinsics", 1, 1, 1, 1], "cannot be combined"),
        (["--camera", "camera.json", "--fov", 60], "lens of its own"),
        (["--camera", "none.json"], "none.json"),
        (["--path", "w-8", "--output", "photo.png"], "photo.png is what it is made from"),
        (["--path", "w-8", "--output", "a.avi"], "a.avi cannot be written: end the name in .mp4"),
        (["--path", "w-8", "--action", "w-8"], "Use --path"),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(world, monkeypatch, words, sentence) -> None:
    monkeypatch.setattr(World, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    outcome = world(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err


def test_a_model_of_images_is_refused_by_name(sana) -> None:
    photo().save("photo.png")
    outcome = sana("world", "photo.png", "--path", "w-8", "--model", "pocket")
    assert outcome.code == 2
    assert "is a model of images, which no camera path steers" in outcome.err
