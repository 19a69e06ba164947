"""`sana train pocket-video` on made-up clips: it trains, resumes exactly, and its result draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit import TextToVideo
from sanakit.errors import DataError, SettingsError, WeightsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data import toy
from sanakit.pocket.data.clips.dataset import open_clips
from sanakit.pocket.data.clips.toy import build_toy_clips
from sanakit.pocket.recipes import RECIPES, video
from sanakit.pocket.train.video import transformer as module
from sanakit.pocket.train.video.autoencoder import open_autoencoder
from sanakit.train.loop import train
from sanakit.train.objectives.clip_velocity import ClipObjective
from sanakit.train.parts import Part
from sanakit.train.run import averaged_weights, run_recipe
from sanakit.weights import load_text_encoder, save_autoencoder
from tests.pipelines.video.tiny import AUTOENCODER

NAME = "pocket-video"
MOST_BYTES = 25_000_000  # of the model's folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data sets of clips and, beside it, of images; an autoencoder."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 3)
        toy.build_toy(folder / "toy")
    torch.manual_seed(0)
    save_autoencoder(folder / "vae", WanVAE(AUTOENCODER))
    return build_toy_clips(folder / "toy-clips"), folder / "vae"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny transformer, few samples, and no TensorBoard, whose import takes longer than the tests."""
    monkeypatch.setattr(video, "TRANSFORMER", replace(video.TRANSFORMER, depth=1, width=64, cross_heads=2))
    training = {"bf16": False, "log_every": 1, "checkpoint_every": 1, "batch_size": 4}
    monkeypatch.setattr(video, "VIDEO", replace(video.VIDEO, **training))
    monkeypatch.setattr(video, "WINDOWS", 2)
    monkeypatch.setattr(video, "MOTIONS", 1)
    monkeypatch.setattr(video, "DEFAULTS", {**video.DEFAULTS, "steps": 2})
    monkeypatch.setattr(module, "SHEET", module.SHEET[:2])
    monkeypatch.setattr(module, "WATCHED", 2)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.mark.thorough
def test_the_recipe_trains_resumes_exactly_and_its_result_draws(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    data, vae = places

    def lines(folder: str, steps: int, resume: bool = False) -> list[float]:
        asked = {"data": data, "output": tmp_path / folder, "more": {"autoencoder": vae}}
        made = run_recipe(NAME, RECIPES, steps=steps, resume=resume, **asked)  # pyright: ignore[reportArgumentType]
        return [progress.loss for progress in made]

    whole = lines("whole", 6)
    run = video.video(data, tmp_path / "half", 6, autoencoder=vae)
    stopped = []
    for progress in train(run.objective, run.config, tmp_path / "half"):
        stopped.append(progress.loss)
        if progress.step == 3:
            break
    assert stopped == whole[:3]
    assert lines("half", 6, resume=True) == whole[3:]
    one, other = (averaged_weights(tmp_path / folder) for folder in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    measured = {"right_0.85", "wrong_0.85", "held_0.85", "chunks_0.85", "unseen_right_0.85"}
    assert measured <= log[-1].keys()
    assert list((tmp_path / "whole" / "sheets").iterdir())

    pipe = TextToVideo.from_pretrained(tmp_path / "whole" / "model")
    state = pipe.transformer.state_dict()
    for name, weight in state.items():
        wanted = one[f"transformer.{name}"].half().float()
        torch.testing.assert_close(weight.float(), wanted, msg=name)
    settings = pipe.settings
    assert (settings.frames, settings.rate, settings.motion, settings.negative_prompt) == (17, 8, 0, "")
    assert (settings.shared.width, settings.shared.name) == (16, "pocket-video")
    assert settings.shared.example_prompts == video.EXAMPLES
    drawn = pipe("a red apple", seed=0, width=64, height=64, binned=False, output="pt").clips
    assert isinstance(drawn, torch.Tensor)
    assert drawn.shape == (1, 3, 17, 64, 64)
    assert torch.isfinite(drawn).all()


def test_clips_and_images_take_turns_in_its_batches(places: tuple[Path, Path], tmp_path: Path) -> None:
    data, vae = places
    run = video.video(data, tmp_path / "run", autoencoder=vae)
    objective = run.objective
    assert isinstance(objective, ClipObjective)
    assert run.notes == ()
    batches = [objective.batch(step, Part(0, 4, 4)) for step in range(30)]
    frames = [batch.noise.shape[2] for batch in batches]
    assert frames.count(1) == 3
    chunks = [batch.chunks for batch in batches if batch.chunks is not None]
    assert 1 <= len(chunks) <= 14
    assert set(map(tuple, chunks)) == {(3, 2)}
    held = torch.cat([batch.held for batch in batches if batch.noise.shape[2] > 1]).float().mean()
    assert 0.3 < held < 0.7


def test_without_images_beside_them_only_clips_are_shown(places: tuple[Path, Path], tmp_path: Path) -> None:
    _, vae = places
    alone = build_toy_clips(tmp_path / "toy-clips")
    run = video.video(alone, tmp_path / "run", autoencoder=vae)
    assert "only animated emoji are shown" in run.notes[0]
    objective = run.objective
    assert isinstance(objective, ClipObjective)
    assert {objective.batch(step, Part(0, 4, 4)).noise.shape[2] for step in range(20)} == {5}


def test_an_autoencoder_is_found_in_runs_and_models_or_asked_for(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    data, vae = places
    clips = open_clips(data)
    finished = tmp_path / "run"
    (finished / "model").mkdir(parents=True)
    (finished / "model" / "vae").symlink_to(vae)
    for place in (vae, finished, finished / "model"):
        assert open_autoencoder(place, AUTOENCODER, clips, []).config == AUTOENCODER
    with pytest.raises(DataError, match="train pocket-video-autoencoder first"):
        video.video(data, tmp_path / "alone" / "run")
    with pytest.raises(WeightsError, match="not an autoencoder of Wan's class"):
        open_autoencoder(Path(video.__file__).parents[2] / "assets" / "pocket", AUTOENCODER, clips, [])


def test_another_recipe_refuses_an_autoencoder(tmp_path: Path) -> None:
    asked = {"data": tmp_path, "output": tmp_path / "run", "more": {"autoencoder": tmp_path}}
    with pytest.raises(SettingsError, match="omit --autoencoder"):
        next(run_recipe("pocket-control", RECIPES, **asked))  # pyright: ignore[reportArgumentType]


def test_its_parts_fit_into_25_mb_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.device("meta"):
        parts = [SanaVideo(video.TRANSFORMER), WanVAE(video.AUTOENCODER)]
    encoder = load_text_encoder("pocket")
    weights = sum(p.numel() for part in [*parts, encoder.model] for p in part.parameters())
    folder = Path(video.__file__).parents[2] / "assets" / "pocket"
    beside = sum(file.stat().st_size for file in (folder / "tokenizer").iterdir())
    known = (folder / "known_things.json").stat().st_size
    assert 2 * weights + beside + known < MOST_BYTES
