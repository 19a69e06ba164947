"""`sana train world`: clips are cached with their paths, runs resume to the bit, and results open."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit import World
from sanakit.data.batches.camera_paths import camera_numbers
from sanakit.data.batches.clip_sampling import ClipOptions
from sanakit.data.cache.build import build_cache, plan_cache
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.cache.store import Cache
from sanakit.errors import DataError, SettingsError
from sanakit.images import image
from sanakit.pipelines.world.paths import CameraPath, pinhole
from sanakit.recipes import RECIPES
from sanakit.recipes import world as recipe
from sanakit.train.loop import train
from sanakit.train.parts import Part
from sanakit.train.run import averaged_weights, run_recipe
from tests.data.clip_files import counted
from tests.models.world.worlds import poses
from tests.pipelines.world.tiny import STREAMING, photo, save_world

SIDE, FRAMES = 32, 17
DEFAULTS = {"steps": 1, "guidance": 1.0, "width": SIDE, "height": SIDE, "frames": 9}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streaming world that is not distilled, with an autoencoder of four frames and eight pixels."""
    chunks = {"length": 2, "times": None}
    folder = tmp_path_factory.mktemp("world") / "model"
    return save_world(folder, replace(STREAMING, plucker_channels=24), None, DEFAULTS | {"chunks": chunks})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with paths, and one without."""
    place = tmp_path_factory.mktemp("clips")
    for number in range(4):
        counted(place / f"{number}.webp", FRAMES, side=SIDE, caption=f"a fox {number}")
        if number < 3:
            path = poses(FRAMES, start=0.4 * number, reach=1.0 + number)
            lens = pinhole(SIDE, SIDE, 60).expand(FRAMES, 4)
            CameraPath(path, lens, SIDE, SIDE).save(place / f"{number}.cameras.json")
    return place


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    every = {"log_every": 1, "checkpoint_every": 1, "batch_size": 2}
    monkeypatch.setattr(recipe, "SMALL", replace(recipe.SMALL, **every))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


def test_a_cache_holds_the_cameras_of_the_frames_that_it_encoded(
    clips: Path, model: Path, tmp_path: Path
) -> None:
    """At half the rate, frames 0, 2, 4 ...: their poses, and the lens of the smaller size."""
    options = ClipOptions(rate=8, lengths=(9,), sizes=((16, 24),))
    folder = build_cache(plan_cache(clips, tmp_path / "cache", model, clips=options, text=True)).folder
    cache = Cache(folder)
    assert cache.about.cameras
    assert list(cache.about.broken) == ["3.webp"]
    path = CameraPath(
        poses(FRAMES, start=0.4, reach=2.0)[::2], pinhole(SIDE, SIDE, 60).expand(9, 4), SIDE, SIDE
    )
    found = cache[1].cameras
    assert found is not None
    wanted = camera_numbers(path)
    torch.testing.assert_close(found[:, :16], wanted[:, :16], atol=1e-6, rtol=0)
    # 32x32 is cut to 32x21 for 24x16: the focal length shrinks by 3/4 across
    assert found[0, 16].item() == pytest.approx(float(wanted[0, 16]) * 24 / 32)
    assert found[0, 18:].tolist() == pytest.approx([12, (16 - 5) * 16 / 21])
    loader = CachedLoader(cache, batch_size=4)
    batch = loader.batch(0, Part(0, 4, 4))
    assert batch.cameras is not None
    assert batch.cameras.shape == (4, 9, 20)
    for key, weight, camera in zip(batch.keys, batch.weights, batch.cameras, strict=True):
        if weight:
            assert torch.equal(camera, next(cache[n].cameras for n in range(3) if cache[n].key == key))  # pyright: ignore
        else:
            assert torch.equal(camera[0, :16].view(4, 4), torch.eye(4))


@pytest.mark.thorough
def test_the_recipe_trains_resumes_exactly_and_its_result_opens(
    clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "MIN_SIDE", SIDE)  # of what is drawn: 64 px would take longer

    def lines(folder: str, steps: int, resume: bool = False) -> list[float]:
        output, settings = tmp_path / folder, {"steps": steps, "resume": resume, "source": str(model)}
        return [one.loss for one in run_recipe("world", RECIPES, data=clips, output=output, **settings)]

    whole = lines("whole", 3)
    run = recipe.world(clips, tmp_path / "half", 3, source=str(model))
    assert any("3.webp: has no camera path" in note for note in run.notes)
    for progress in train(run.objective, run.config, tmp_path / "half"):
        assert progress.loss == whole[progress.step - 1]
        if progress.step == 2:
            break
    assert lines("half", 3, resume=True) == whole[2:]
    one, other = (averaged_weights(tmp_path / folder) for folder in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"right_0.5", "none_0.5", "other_0.5", "gap_0.5"} <= log[-1].keys()

    before, after = (
        World.from_pretrained(place, device="cpu") for place in (model, tmp_path / "whole" / "model")
    )
    assert after.settings.chunks == before.settings.chunks
    assert (after.settings.frames, after.settings.rate) == (before.settings.frames, before.settings.rate)
    assert after.settings.shared.steps == 1
    assert after.transformer.config == before.transformer.config
    clip = after(photo().resize((SIDE, SIDE)), "a fox", path="w-8", fov=60, seed=0)
    assert clip.frames.shape == (9, SIDE, SIDE, 3)


def test_what_cannot_be_trained_on_is_refused(
    clips: Path, model: Path, tmp_path: Path, video_cache: Path
) -> None:
    with pytest.raises(DataError, match="no camera paths"):
        recipe.world(video_cache, tmp_path / "run", source=str(model))
    bare = tmp_path / "bare"
    counted(bare / "a.webp", FRAMES, side=SIDE)
    with pytest.raises(DataError, match="no camera path"):
        recipe.world(bare, tmp_path / "run", source=str(model))
    distilled = tmp_path / "distilled"
    shutil.copytree(model, distilled)
    told = json.loads((distilled / "sanakit.json").read_text())
    told["defaults"]["chunks"]["times"] = [1.0, 0.5]
    (distilled / "sanakit.json").write_text(json.dumps(told))
    with pytest.raises(SettingsError, match="distilled"):
        recipe.world(clips, tmp_path / "run", source=str(distilled))


@pytest.fixture
def video_cache(model: Path, clips: Path, tmp_path: Path) -> Path:
    """A cache of the same model that has no cameras, as one of an older version would be."""
    options = ClipOptions(lengths=(9,), sizes=((16, 16),))
    folder = build_cache(plan_cache(clips, tmp_path / "older", model, clips=options, text=True)).folder
    about = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(about | {"cameras": False}))
    return folder
