"""The loop resumes exactly, reports what it does, and stops at what is not a number."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import NumericsError, OutputError, WeightsError
from sanakit.train.checkpoint import load_checkpoint
from sanakit.train.config import TrainConfig
from sanakit.train.loop import Progress, train

CONFIG = TrainConfig(
    steps=12,
    batch_size=8,
    learning_rate=0.01,
    warmup_steps=3,
    log_every=2,
    evaluate_every=6,
    sheet_every=6,
    checkpoint_every=4,
)
OPTIMIZERS = {"adamw": CONFIG, "muon": replace(CONFIG, optimizer="muon"), "bf16": replace(CONFIG, bf16=True)}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Conv1d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(self.qkv(x).tanh()[..., None])[..., 0]


class Regression:
    """Learn a fixed linear map through two blocks; one layer is frozen."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = nn.Module()
        self.model.start = nn.Linear(6, 6).requires_grad_(False)
        self.model.blocks = nn.Sequential(Block(6), Block(6))
        self.wanted = torch.randn(6, 6, generator=torch.Generator().manual_seed(9))
        self.poisoned = -1

    def _loss(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        x = torch.randn(8, 6, generator=generator)
        return (model.blocks(model.start(x)).float() - x @ self.wanted).square().mean()

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        loss = self._loss(self.model, generator)
        return loss * math.nan if step == self.poisoned else loss

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        assert not torch.is_grad_enabled() or not any(p.requires_grad for p in averaged.parameters())
        return {"error": self._loss(averaged, torch.Generator().manual_seed(1)).item()}

    def sheet(self, averaged: nn.Module) -> Image.Image:
        return Image.new("RGB", (4, 4), "red")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def untimed(progress: list) -> list:
    return [replace(p, seconds=0.0) if isinstance(p, Progress) else p | {"seconds": 0} for p in progress]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Importing it takes longer than all of these tests."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop", [8, 10], ids=["at a checkpoint", "after one"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name, stop):
    config = OPTIMIZERS[name]
    whole = list(train(Regression(), config, tmp_path / "whole"))
    first = list(islice(train(Regression(), config, tmp_path / "parts"), stop // 2))
    assert first[-1].step == stop
    assert load_checkpoint(tmp_path / "parts")["step"] == 8
    objective = Regression(seed=5)  # whose own weights must not matter
    second = list(train(objective, config, tmp_path / "parts", resume=True))
    assert untimed(first[:4] + second) == untimed(whole)
    assert untimed(rows(tmp_path / "parts")) == untimed(rows(tmp_path / "whole"))
    states = [load_checkpoint(tmp_path / part) for part in ("whole", "parts")]
    for part in ("model", "average"):
        for key, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][key]), key
    for key, tensor in objective.model.state_dict().items():
        assert torch.equal(tensor, states[0]["model"][key])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_lowers_the_loss_and_leaves_frozen_weights(tmp_path, name):
    objective = Regression()
    frozen = objective.model.start.weight.clone()
    progress = list(train(objective, replace(OPTIMIZERS[name], steps=120, log_every=20), tmp_path))
    assert progress[-1].loss < 0.6 * progress[0].loss
    assert progress[-1].metrics["error"] < progress[0].metrics.get("error", math.inf)
    assert torch.equal(objective.model.start.weight, frozen)
    assert torch.equal(load_checkpoint(tmp_path)["average"]["start.weight"], frozen)


def test_progress_log_and_sheets_tell_the_same_story(tmp_path):
    progress = list(train(Regression(), CONFIG, tmp_path))
    assert [p.step for p in progress] == [2, 4, 6, 8, 10, 12]
    assert [p.rate for p in progress] == [CONFIG.rate(p.step - 1) for p in progress]
    assert [set(p.metrics) for p in progress] == [set(), set(), {"error"}, set(), set(), {"error"}]
    for p, row in zip(progress, rows(tmp_path), strict=True):
        assert (row["step"], row["loss"]) == (p.step, pytest.approx(p.loss, abs=1e-6))
        assert row["grad_norm"] == pytest.approx(p.grad_norm, abs=1e-6)
        assert row.get("error") == (pytest.approx(p.metrics["error"], abs=1e-6) if p.metrics else None)
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["0000006.png", "0000012.png"]
    assert Image.open(tmp_path / "sheets/0000012.png").size == (4, 4)


def test_tensorboard_shows_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    progress = list(train(Regression(), CONFIG, tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (p.step, pytest.approx(p.loss)) for p in progress
    ]
    assert [e.step for e in events.Scalars("error")] == [6, 12]


def test_a_folder_that_can_not_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("regular")
    with pytest.raises(OutputError, match="choose another output"):
        next(train(Regression(), CONFIG, tmp_path / "file" / "run"))


def test_a_logged_loss_is_the_mean_since_the_last_line(tmp_path):
    each = [p.loss for p in train(Regression(), replace(CONFIG, log_every=1), tmp_path / "each")]
    every_other = [p.loss for p in train(Regression(), CONFIG, tmp_path / "other")]
    means = [(a + b) / 2 for a, b in zip(each[::2], each[1::2], strict=True)]
    assert every_other == pytest.approx(means, abs=1e-6)


def test_the_average_follows_the_weights(tmp_path):
    objective = Regression()
    start = objective.model.blocks[0].qkv.weight.clone()
    list(train(objective, replace(CONFIG, steps=1, checkpoint_every=1), tmp_path))
    moved = objective.model.blocks[0].qkv.weight
    average = load_checkpoint(tmp_path)["average"]["blocks.0.qkv.weight"]
    assert not torch.equal(moved, start)
    torch.testing.assert_close(average, start + 0.9 * (moved - start))  # decay 1/10 in the first step


def test_gradients_are_clipped_but_reported_whole(tmp_path):
    loud = next(train(Regression(), replace(CONFIG, log_every=1, clip_norm=1e-6), tmp_path / "a"))
    free = next(train(Regression(), replace(CONFIG, log_every=1, clip_norm=1e6), tmp_path / "b"))
    assert loud.grad_norm == free.grad_norm > 0.1


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_kept(tmp_path):
    objective = Regression()
    objective.poisoned = 9
    with pytest.raises(NumericsError, match="at step 9: lower the learning rate"):
        list(train(objective, CONFIG, tmp_path))
    assert load_checkpoint(tmp_path)["step"] == 8
    assert all(parameter.isfinite().all() for parameter in objective.model.parameters())


def test_resuming_takes_the_learning_rate_of_the_new_settings(tmp_path):
    """As the error about losses that are not numbers advises."""
    list(train(Regression(), replace(CONFIG, steps=8), tmp_path))
    objective = Regression()
    before = load_checkpoint(tmp_path)["model"]["blocks.0.qkv.weight"]
    list(train(objective, replace(CONFIG, learning_rate=1e-9, weight_decay=0.0005), tmp_path, resume=True))
    assert (objective.model.blocks[0].qkv.weight - before).abs().max() < 1e-7


def test_a_finished_run_is_not_trained_further(tmp_path):
    list(train(Regression(), CONFIG, tmp_path))
    written = (tmp_path / "checkpoint.pt").read_bytes()
    objective = Regression(seed=5)
    assert list(train(objective, CONFIG, tmp_path, resume=True)) == []
    assert (tmp_path / "checkpoint.pt").read_bytes() == written
    expected = load_checkpoint(tmp_path)["model"]["blocks.1.qkv.weight"]
    assert torch.equal(objective.model.blocks[1].qkv.weight, expected)


def test_without_resume_the_log_begins_anew(tmp_path):
    list(train(Regression(), CONFIG, tmp_path))
    list(train(Regression(), replace(CONFIG, steps=4), tmp_path))
    assert [row["step"] for row in rows(tmp_path)] == [2, 4]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    list(train(Regression(), replace(CONFIG, steps=4), tmp_path))
    other = Regression()
    other.model.blocks.append(Block(6))
    with pytest.raises(WeightsError, match="of another model"):
        next(train(other, CONFIG, tmp_path, resume=True))


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path):
    list(train(Regression(), replace(CONFIG, steps=4), tmp_path))
    with pytest.raises(WeightsError, match="other parameter groups"):
        next(train(Regression(), OPTIMIZERS["muon"], tmp_path, resume=True))


def test_other_seeds_draw_other_batches(tmp_path):
    losses = [
        next(train(Regression(), replace(CONFIG, seed=seed), tmp_path / str(seed))).loss for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
