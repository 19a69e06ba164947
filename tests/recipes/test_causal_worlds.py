"""`sana train causal` of a world: three stages lead from whole clips to one that streams in few steps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit import World
from sanakit.errors import DataError, SettingsError, WeightsError
from sanakit.images import image
from sanakit.models.world.config import SANA_WM_1600M
from sanakit.pipelines.world.paths import CameraPath, pinhole
from sanakit.recipes import RECIPES, causal
from sanakit.train.run import run_recipe
from sanakit.weights import load_transformer
from sanakit.weights.video.settings import WORLD_CHUNKS, load_world_settings
from tests.data.clip_files import counted
from tests.models.world.worlds import poses
from tests.pipelines.video.tiny import save_tiny
from tests.pipelines.world.tiny import TRANSFORMER, photo, save_world
from tests.recipes.folders import Command

SIDE, FRAMES = 32, 17  # 5 latents: chunks of 3 and 2
DEFAULTS = {"steps": 2, "guidance": 2.0, "width": SIDE, "height": SIDE, "frames": FRAMES}
SIZES = {"depth": 2, "width": 32, "head_dim": 16, "softmax_every": 2}
CONFIG = replace(
    TRANSFORMER, plucker_channels=24, **SIZES
)  # Wan's autoencoder: four frames, eight pixels a latent
TIMES = (1.0, 0.96, 0.889, 0.727)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of whole clips."""
    return save_world(tmp_path_factory.mktemp("world") / "model", CONFIG, None, DEFAULTS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clips")
    for number in range(3):
        counted(place / f"{number}.webp", FRAMES, side=SIDE, caption=f"a fox {number}")
        path = poses(FRAMES, start=0.4 * number, reach=1.0 + number)
        lens = pinhole(SIDE, SIDE, 60).expand(FRAMES, 4)
        CameraPath(path, lens, SIDE, SIDE).save(place / f"{number}.cameras.json")
    return place


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """Chunks of two latents."""
    aim = causal.SMALL_WORLD.aim
    changed = replace(aim, chunks=replace(aim.chunks, length=2))
    monkeypatch.setattr(causal, "SMALL_WORLD", replace(causal.SMALL_WORLD, aim=changed))
    monkeypatch.setattr(image, "MIN_SIDE", SIDE)  # of what is drawn: 64 px would take longer


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_transformer(folder, kind="world", dtype="float32").state_dict()


@pytest.mark.thorough
def test_three_stages_make_a_world_that_streams_and_go_on_to_the_bit(
    model: Path, clips: Path, tmp_path: Path, command: Command
) -> None:
    words = ("train", "causal", "--source", model, "--data", clips, "--smoke", "--output")
    command(*words, tmp_path / "whole")
    stages = {name: tmp_path / "whole" / name / "model" for name in ("chunks", "ode", "forcing")}
    drawn = [load_world_settings(folder).chunks for folder in stages.values()]
    assert [(one.length, one.times, one.shift) for one in drawn] == [(2, None, None), *[(2, TIMES, None)] * 2]
    before, *after = (weights(folder) for folder in (model, *stages.values()))
    for one in after:  # each stage has learned
        assert any(not torch.equal(one[name], before[name]) for name in one)
        before = one
    lines = {
        name: json.loads((tmp_path / "whole" / name / "log.jsonl").read_text().splitlines()[-1])
        for name in stages
    }
    assert {"right_0.5", "gap_0.5"} <= lines["chunks"].keys()
    assert {"end_1", "end_0.727", "path_own", "path_other", "obeyed"} <= lines["ode"].keys()
    assert {"apart_0.5", "path_own", "path_other", "obeyed"} <= lines["forcing"].keys()

    world = World.from_pretrained(stages["forcing"], device="cpu")
    assert world.transformer.config == replace(CONFIG, variant="streaming")
    shown = world.stream(photo().resize((SIDE, SIDE)), "a fox", path="w-16", fov=60, seed=0)
    assert [len(chunk.frames) for chunk in shown] == [9, 8]

    # stopped behind the first step of the second stage, with some trajectories
    cut = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", cut)
    for gone in (cut / "forcing", cut / "ode" / "model", *(cut / "ode").glob("checkpoint-*2")):
        shutil.rmtree(gone)
    next((cut / "ode" / "trajectories").glob("*/*2.safetensors")).unlink()
    command(*words, cut, "--resume")
    for name, folder in stages.items():
        again = weights(cut / name / "model")
        assert all(torch.equal(one, again[key]) for key, one in weights(folder).items()), name


def test_what_a_world_cannot_be_distilled_from_is_refused(model: Path, clips: Path, tmp_path: Path) -> None:
    def told(recipe: str, **settings: object) -> str:
        place = {"data": clips, "output": tmp_path / recipe, "smoke": True}
        with pytest.raises((SettingsError, DataError, WeightsError)) as refused:
            list(run_recipe(recipe, RECIPES, **(place | settings)))  # pyright: ignore[reportArgumentType]
        return str(refused.value)

    taught = {"source": model, "more": {"teacher": model}}
    assert "has not learned chunks" in told("causal-ode", **taught)
    assert "has not learned chunks" in told("causal-forcing", **taught)
    plain = save_tiny(tmp_path / "plain")
    assert "is a model of clips, which no camera path steers" in told(
        "causal-ode", **(taught | {"source": plain})
    )
    counted(tmp_path / "bare" / "a.webp", FRAMES, side=SIDE, caption="a fox")
    assert "no camera path" in told("causal", source=model, data=tmp_path / "bare")
    with pytest.raises(SettingsError, match="needs a model of clips or worlds: name one with --source"):
        list(run_recipe("causal", RECIPES, data=clips, output=tmp_path / "none"))


def test_a_world_in_chunks_goes_through_the_last_two_stages(model: Path, clips: Path, tmp_path: Path) -> None:
    chunks = {"chunks": {"length": 2, "times": None}}
    streaming = save_world(
        tmp_path / "streaming", replace(CONFIG, variant="streaming"), None, DEFAULTS | chunks
    )
    names = [stage.folder.name for stage in causal.causal(clips, tmp_path / "run", source=streaming)]
    assert names == ["ode", "forcing"]
    assert causal.schedule_for(streaming).aim.chunks == replace(WORLD_CHUNKS, length=2)
    whole = [stage.folder.name for stage in causal.causal(clips, tmp_path / "run", source=model)]
    assert whole == ["chunks", "ode", "forcing"]


def test_settings_are_the_published_ones_for_the_published_size(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert causal.schedule_for(model).aim.matching.guidance == 2.0  # never more than the teacher draws with
    monkeypatch.setattr(causal, "load_world_configs", lambda source: (SANA_WM_1600M, None))
    large = causal.schedule_for(model)
    assert (large.chunks.learning_rate, large.chunks.clip_norm, large.aim.shift) == (1e-5, 0.5, 9.95)
    assert (large.ode.learning_rate, large.ode.steps, large.ode.clip_norm) == (2e-5, 3000, 1.0)
    forcing, matching = large.forcing, large.aim.matching
    assert (forcing.learning_rate, forcing.betas, forcing.clip_norm) == (1e-5, (0.0, 0.999), 10.0)
    assert forcing.learning_rate * forcing.factor("critic.blocks.0.attn.qkv.weight") == pytest.approx(2e-6)
    assert (matching.shift, matching.least, matching.most, matching.critic_steps) == (10.0, 0.02, 0.98, 4)
    assert (large.aim.chunks, large.aim.sampler.fresh) == (WORLD_CHUNKS, False)
