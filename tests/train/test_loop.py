"""The loop resumes exactly, reports what it does, and stops at what is not a number."""

from __future__ import annotations

import json
import logging
import math
import sys
import zlib
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import NumericsError, OutputError, SettingsError, WeightsError
from sanakit.train.loop import train
from sanakit.train.report import Progress
from sanakit.train.state.checkpoint import load_average, open_checkpoint
from tests.train.regression import CONFIG, Block, Regression, rows

pytestmark = pytest.mark.usefixtures("no_tensorboard", "bfloat16")

OPTIMIZERS = {"adamw": CONFIG, "muon": replace(CONFIG, optimizer="muon"), "bf16": replace(CONFIG, bf16=True)}


def everything(folder: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint."""
    saved = open_checkpoint(folder)
    tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in saved.tensors.items()}
    saved.read(tensors)
    return tensors


def untimed(progress: list) -> list:
    timed = {"seconds": 0.0, "samples_per_second": 0.0, "data_wait": 0.0}
    return [replace(p, **timed) if isinstance(p, Progress) else p | timed for p in progress]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop", [8, 10], ids=["at a checkpoint", "after one"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name, stop):
    config = OPTIMIZERS[name]
    whole = list(train(Regression(), config, tmp_path / "whole"))
    first = list(islice(train(Regression(), config, tmp_path / "parts"), stop // 2))
    assert first[-1].step == stop
    assert open_checkpoint(tmp_path / "parts").step == 8
    objective = Regression(seed=5)  # whose own weights must not matter
    second = list(train(objective, config, tmp_path / "parts", resume=True))
    assert untimed(first[:4] + second) == untimed(whole)
    assert untimed(rows(tmp_path / "parts")) == untimed(rows(tmp_path / "whole"))
    states = [everything(tmp_path / part) for part in ("whole", "parts")]
    assert set(states[0]) == set(states[1])
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key
    for key, tensor in objective.model.state_dict().items():
        assert torch.equal(tensor, states[0][f"model.{key}"])


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_is_told(tmp_path):
    whole = list(train(Regression(), CONFIG, tmp_path / "whole"))
    list(islice(train(Regression(), CONFIG, tmp_path / "parts"), 4))
    damaged = tmp_path / "parts" / "checkpoint-0000008" / "manifest.json"
    damaged.write_text(damaged.read_text()[:-9])
    resumed = list(train(Regression(seed=5), CONFIG, tmp_path / "parts", resume=True))
    assert [p.loss for p in resumed] == [p.loss for p in whole[2:]]
    assert "checkpoint-0000008 is damaged" in resumed[0].notes[0]
    assert rows(tmp_path / "parts")[2]["notes"] == list(resumed[0].notes)


def test_a_wholly_frozen_model_is_refused(tmp_path):
    objective = Regression()
    objective.model.requires_grad_(False)
    with pytest.raises(SettingsError, match="nothing to train"):
        next(train(objective, CONFIG, tmp_path))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_lowers_the_loss_and_leaves_frozen_weights(tmp_path, name):
    objective = Regression()
    frozen = objective.model.start.weight.clone()
    progress = list(
        train(objective, replace(OPTIMIZERS[name], steps=120, log_every=20, checkpoint_every=120), tmp_path)
    )
    assert progress[-1].loss < 0.6 * progress[0].loss
    assert progress[-1].metrics["error"] < progress[0].metrics.get("error", math.inf)
    assert torch.equal(objective.model.start.weight, frozen)
    assert torch.equal(load_average(tmp_path)["start.weight"], frozen)


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
    average = load_average(tmp_path)["blocks.0.qkv.weight"]
    assert not torch.equal(moved, start)
    torch.testing.assert_close(average, start + 0.9 * (moved - start))  # decay 1/10 in the first step


def test_gradients_are_clipped_but_reported_whole(tmp_path):
    loud = next(train(Regression(), replace(CONFIG, log_every=1, clip_norm=1e-6), tmp_path / "a"))
    free = next(train(Regression(), replace(CONFIG, log_every=1, clip_norm=1e6), tmp_path / "b"))
    assert loud.grad_norm == free.grad_norm > 0.1


def test_a_loss_that_is_not_a_number_is_skipped_and_told(tmp_path):
    objective = Regression()
    objective.poisoned = {5}
    progress = list(train(objective, replace(CONFIG, log_every=1), tmp_path))
    assert [p.notes for p in progress if p.notes] == [("Step 5 skipped: loss nan is not a number.",)]
    assert [p.step for p in progress if p.notes] == [6]
    assert rows(tmp_path)[5]["notes"] == list(progress[5].notes)
    assert all(tensor.isfinite().all() for tensor in everything(tmp_path).values())


def test_a_hopeless_run_stops_and_keeps_its_last_checkpoint(tmp_path):
    objective = Regression()
    objective.poisoned = set(range(9, 100))
    with pytest.raises(NumericsError, match="--resume"):
        list(train(objective, replace(CONFIG, steps=100, checkpoint_every=8), tmp_path))
    assert open_checkpoint(tmp_path).step % 8 == 0
    assert all(tensor.isfinite().all() for tensor in everything(tmp_path).values())


def test_resuming_takes_the_learning_rate_of_the_new_settings(tmp_path):
    """As the error about losses that are not numbers advises."""
    list(train(Regression(), replace(CONFIG, steps=8), tmp_path))
    objective = Regression()
    before = everything(tmp_path)["model.blocks.0.qkv.weight"]
    list(train(objective, replace(CONFIG, learning_rate=1e-9, weight_decay=0.0005), tmp_path, resume=True))
    assert (objective.model.blocks[0].qkv.weight - before).abs().max() < 1e-7


def test_a_finished_run_is_not_trained_further(tmp_path):
    list(train(Regression(), CONFIG, tmp_path))
    written = open_checkpoint(tmp_path).path.stat().st_mtime_ns
    objective = Regression(seed=5)
    assert list(train(objective, CONFIG, tmp_path, resume=True)) == []
    assert open_checkpoint(tmp_path).path.stat().st_mtime_ns == written
    assert objective.begun is None
    expected = everything(tmp_path)["model.blocks.1.qkv.weight"]
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
    with pytest.raises(WeightsError, match="of another optimiser"):
        next(train(Regression(), OPTIMIZERS["muon"], tmp_path, resume=True))


def test_other_seeds_draw_other_batches(tmp_path):
    losses = [
        next(train(Regression(data_seed=seed), CONFIG, tmp_path / str(seed))).loss for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_bfloat16_is_left_where_the_processor_has_none_and_that_is_told(tmp_path, monkeypatch):
    losses = {}
    for there in (True, False):
        monkeypatch.setattr("sanakit.train.loop.computes", lambda device, dtype, there=there: there)
        progress = list(train(Regression(), OPTIMIZERS["bf16"], tmp_path / str(there)))
        losses[there] = [p.loss for p in progress]
        told = [note for p in progress for note in p.notes]
        assert told == [] if there else "float32" in told[0] and len(told) == 1
    assert losses[False] == [p.loss for p in train(Regression(), CONFIG, tmp_path / "float32")]
    assert losses[True] != losses[False]


def test_fewer_steps_than_are_done_are_told(tmp_path, caplog):
    list(train(Regression(), CONFIG, tmp_path))
    caplog.set_level(logging.INFO)
    assert list(train(Regression(), replace(CONFIG, steps=4), tmp_path, resume=True)) == []
    assert "The run is at step 12 already, beyond the 4 steps asked for" in caplog.text
    caplog.clear()
    assert list(train(Regression(), CONFIG, tmp_path, resume=True)) == []
    assert caplog.text == ""


def test_damage_is_told_even_where_nothing_is_left_to_train(tmp_path, caplog):
    list(train(Regression(), CONFIG, tmp_path))
    (tmp_path / "checkpoint-0000012" / "manifest.json").write_text("{")
    assert list(train(Regression(), replace(CONFIG, steps=8), tmp_path, resume=True)) == []
    assert "checkpoint-0000012 is damaged" in caplog.text


def forge(path: Path, **changes) -> None:
    """Change a checkpoint's manifest as somebody does who knows how its checksum is made."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    body = {name: manifest[name] for name in ("format", "step", "numbers", "tensors", "files")}
    manifest["checksum"] = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "numbers",
    [
        *({}, [], "x", {"optimizers": {}, "guard": {}}, {"optimizers": {}, "guard": None}),
        {"optimizers": {"optimizer.blocks.0.qkv.weight.step": "3"}},
        {"optimizers": ["step"]},
    ],
    ids=str,
)
def test_forged_numbers_cost_the_steps_since_the_checkpoint_before(tmp_path, numbers):
    list(islice(train(Regression(), CONFIG, tmp_path), 4))
    newest = tmp_path / "checkpoint-0000008"
    kept = json.loads((newest / "manifest.json").read_text())["numbers"]
    forge(newest, numbers=kept | numbers if "optimizers" in numbers and len(numbers) == 1 else numbers)
    resumed = next(train(Regression(), CONFIG, tmp_path, resume=True))
    assert resumed.step == 6
    assert "checkpoint-0000008 is damaged" in resumed.notes[0]
