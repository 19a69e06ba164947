"""pocket-video's autoencoder on made-up clips: it trains, resumes exactly, and its result opens."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data.clips.dataset import open_clips
from sanakit.pocket.data.clips.toy import HELD_OUT, build_toy_clips
from sanakit.pocket.recipes import RECIPES, video
from sanakit.pocket.train.video import autoencoder
from sanakit.pocket.train.video.autoencoder import (
    held_out_clips,
    open_autoencoder,
    some_windows,
    training_weights,
)
from sanakit.train.loop import train
from sanakit.train.run import averaged_weights, run_recipe
from sanakit.weights.video.autoencoder import load_autoencoder

NAME = "pocket-video-autoencoder"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start from few clips, and no TensorBoard, whose import takes longer than the tests."""
    monkeypatch.setattr(autoencoder, "STARTED_FROM", 4)
    monkeypatch.setattr(autoencoder, "MEASURED_ON", 4)
    training = replace(video.TRAINING, bf16=False, log_every=1, checkpoint_every=1)
    monkeypatch.setattr(video, "TRAINING", training)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


def test_concepts_are_drawn_alike_and_held_out_ones_never(tmp_path: Path) -> None:
    clips = open_clips(build_toy_clips(tmp_path / "toy"))
    rows = [*clips.rows, replace(clips.rows[0], tone="dark skin tone")]
    weights = training_weights(replace(clips, rows=rows))
    by_concept: dict[str, float] = {}
    for row, weight in zip(rows, weights, strict=True):
        by_concept[row.concept] = by_concept.get(row.concept, 0.0) + weight
    assert {concept for concept, weight in by_concept.items() if weight == 0} == set(HELD_OUT)
    assert [weight for weight in by_concept.values() if weight] == pytest.approx([0.1] * 10)
    reference = held_out_clips(clips)
    assert reference.shape == (2, 3, 17, 16, 16)
    assert not torch.equal(reference[0], reference[1])
    windows = some_windows(clips, training_weights(clips), 99, 5)
    assert windows.shape == (10, 3, 5, 16, 16)


@pytest.mark.thorough
def test_the_recipe_trains_resumes_exactly_and_its_result_opens(tmp_path: Path) -> None:
    data = build_toy_clips(tmp_path / "toy")

    def lines(folder: str, steps: int, resume: bool = False) -> list[float]:
        output = tmp_path / folder
        made = run_recipe(NAME, RECIPES, data=data, output=output, steps=steps, resume=resume)
        return [progress.loss for progress in made]

    whole = lines("whole", 3)
    run = video.autoencoder(data, tmp_path / "half", 3)
    stopped = []
    for progress in train(run.objective, run.config, tmp_path / "half"):
        stopped.append(progress.loss)
        if progress.step == 2:
            break
    assert stopped == whole[:2]
    assert lines("half", 3, resume=True) == whole[2:]
    one, other = (averaged_weights(tmp_path / folder) for folder in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"psnr", "inner", "flicker", "motion"} <= log[-1].keys()
    made = load_autoencoder(tmp_path / "whole" / "model" / "vae")
    assert isinstance(made, WanVAE)
    for name, weight in made.state_dict().items():
        torch.testing.assert_close(weight, one[name].contiguous(), msg=name)
    clips = open_clips(data)
    measured = some_windows(clips, training_weights(clips), 4, 17)
    latents = torch.cat([made.encode(clip) for clip in measured.split(1)])
    normal = made.normalise(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(16), atol=1e-2, rtol=0)

    notes: list[str] = []
    assert open_autoencoder(tmp_path / "whole", video.AUTOENCODER, clips, notes).config == made.config
    assert notes == []
    shutil.rmtree(tmp_path / "whole" / "model")  # as if it was not finished
    early = open_autoencoder(tmp_path / "whole", video.AUTOENCODER, clips, notes)
    assert "step 3 are used" in notes[0]
    assert early.config == made.config
    assert all(torch.equal(early.state_dict()[name], tensor) for name, tensor in made.state_dict().items())


def test_a_shortened_run_decays_earlier(tmp_path: Path) -> None:
    data = build_toy_clips(tmp_path / "toy")
    config = video.autoencoder(data, tmp_path / "run", smoke=True).config
    assert config.steps == 2
    full, short = video.TRAINING, video.TRAINING.lasting(2000)
    assert full.rate(1200) == short.rate(1200) == 1.0
    assert full.rate(1900) == 1.0 > short.rate(1900)
