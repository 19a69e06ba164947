"""`sana train causal`: three stages lead from a model of whole clips to one that streams in few steps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.errors import DataError, SettingsError
from sanakit.models.video.sana_video import SANA_VIDEO_2B_480P
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.recipes import RECIPES, causal
from sanakit.train.run import run_recipe
from sanakit.weights import load_transformer
from sanakit.weights.video.settings import load_video_settings
from tests.data.clip_files import counted
from tests.pipelines.video.tiny import save_tiny
from tests.recipes.folders import Command

DEFAULTS = {"steps": 2, "guidance": 2.0, "width": 64, "height": 64, "frames": 17, "negative_prompt": ""}


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny-video", defaults={**DEFAULTS, "motion": 0})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, caption in enumerate(("a red fox", "a blue boat")):
        counted(folder / f"{number}.webp", 17, side=64, caption=caption)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_transformer(folder, kind="clip", dtype="float32").state_dict()


@pytest.mark.thorough
def test_three_stages_make_a_model_that_streams_and_go_on_to_the_bit(
    clip_model: Path, clips: Path, tmp_path: Path, command: Command, quick: None
) -> None:
    words = ("train", "causal", "--source", clip_model, "--data", clips, "--smoke", "--output")
    command(*words, tmp_path / "whole")
    stages = {name: tmp_path / "whole" / name / "model" for name in ("chunks", "ode", "forcing")}
    drawn = {name: load_video_settings(folder).chunks for name, folder in stages.items()}
    assert [one.times for one in drawn.values()] == [None, *[(1.0, 0.96, 0.889, 0.727)] * 2]
    assert {one.length for one in drawn.values()} == {2}
    before, *after = (weights(folder) for folder in (clip_model, *stages.values()))
    for one in after:  # each stage has learned
        assert any(not torch.equal(one[name], before[name]) for name in one)
        before = one

    pipe = TextToVideo.from_pretrained(stages["forcing"], device="cpu")
    shown = [chunk.frames for chunk in pipe.stream("a red fox <split> a boat", seed=0, frames=17)]
    assert [len(frames) for frames in shown] == [9, 8]
    last = json.loads((tmp_path / "whole" / "ode" / "log.jsonl").read_text().splitlines()[-1])
    assert {"end_1", "end_0.96", "end_0.889", "end_0.727"} <= set(last)

    # stopped behind the first step of the second stage, with some trajectories
    cut = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", cut)
    for gone in (cut / "forcing", cut / "ode" / "model", *(cut / "ode").glob("checkpoint-*2")):
        shutil.rmtree(gone)
    command(*words, cut, "--resume")
    for name, folder in stages.items():
        assert_same = weights(cut / name / "model")
        assert all(torch.equal(one, assert_same[key]) for key, one in weights(folder).items()), name

    # a stage by itself, at another rate, with the trajectories that are there
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "whole" / "ode" / "trajectories", alone / "trajectories")
    single = ("train", "causal-ode", "--source", stages["chunks"], "--teacher", clip_model, "--smoke")
    cache = tmp_path / "whole" / "cache"
    command(*single, "--data", cache, "--learning-rate", "1e-3", "--output", alone)
    record = json.loads((alone / "config.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-3
    assert record["source"]["weights"].keys() >= {"teacher", "transformer"}


def test_what_cannot_be_made_causal_is_refused(clip_model: Path, clips: Path, tmp_path: Path) -> None:
    def told(recipe: str, **settings: object) -> str:
        place = {"data": clips, "output": tmp_path / recipe, "smoke": True}
        with pytest.raises((SettingsError, DataError)) as refused:
            list(run_recipe(recipe, RECIPES, **(place | settings)))  # pyright: ignore[reportArgumentType]
        return str(refused.value)

    assert "name one with --source" in told("causal-chunks")
    assert "name one with --source" in told("causal")
    assert "name one with --teacher" in told("causal-forcing", source=clip_model)
    assert "learns from no other model: omit --teacher" in told(
        "finetune", smoke=False, more={"teacher": "x"}
    )
    assert "learning rates of their own" in told("causal", source=clip_model, more={"learning_rate": 1e-3})
    counted(tmp_path / "short" / "0.webp", 9, side=64, caption="a fox")
    short = {"source": tmp_path / "short-model", "data": tmp_path / "short"}
    save_tiny(short["source"], defaults={**DEFAULTS, "motion": 0, "frames": 9})
    assert "Most clips have 9 frames" in told("causal-chunks", **short)
    shutil.copytree(clip_model, tmp_path / "causal-model")
    config = tmp_path / "causal-model" / "transformer" / "config.json"
    text = config.read_text().replace("SanaVideoTransformer3DModel", "SanaVideoCausalTransformer3DModel")
    config.write_text(text)
    assert "does not draw whole clips" in told("causal-chunks", source=tmp_path / "causal-model")


def test_settings_follow_the_models_size(clip_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published ones: rates, betas, steps of the second stage, average, batch; guidance as it draws."""
    small = causal.schedule_for(clip_model)
    assert (small.aim.matching.guidance, small.aim.chunks.length) == (2.0, 2)
    monkeypatch.setattr(causal, "load_video_configs", lambda source: (SANA_VIDEO_2B_480P, None))
    large = causal.schedule_for(clip_model)
    assert (large.ode.learning_rate, large.ode.betas, large.ode.steps) == (2e-5, (0.9, 0.999), 10_000)
    forcing = large.forcing
    assert (forcing.learning_rate, forcing.betas, forcing.ema_decay) == (1e-5, (0.0, 0.999), 0.99)
    assert forcing.batch_size == 64
    assert forcing.learning_rate * forcing.factor("critic.blocks.0.attn.qkv.weight") == pytest.approx(2e-6)
    assert forcing.factor("student.blocks.0.attn.qkv.weight") == 1
    assert large.aim == replace(causal.PUBLISHED.aim, matching=large.aim.matching)
    assert (large.aim.chunks.length, large.aim.sampler.model_times) == (10, (1.0, 0.96, 0.889, 0.727, 0.0))
