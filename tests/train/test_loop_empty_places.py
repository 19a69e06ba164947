"""A batch with empty places counts its samples, and no more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sanakit.errors import DataError
from sanakit.train.guard import Guard
from sanakit.train.loop import train
from sanakit.train.parts import Part
from sanakit.train.state.checkpoint import open_checkpoint
from tests.train.regression import CONFIG, Regression, rows

pytestmark = pytest.mark.usefixtures("no_tensorboard", "bfloat16")


class Sparse(Regression):
    """The same from batches with empty places: `there` maps a step to its samples, of 8; others are full."""

    def __init__(self, there: dict[int, int]) -> None:
        super().__init__()
        self.there = there

    def batch(self, step: int, part: Part) -> tuple[Tensor, Tensor]:
        x, _ = super().batch(step, part)
        sound = torch.arange(part.start, part.stop) < self.there.get(step, part.total)
        return x, sound / part.total

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, shares = batch
        errors = (self.model.blocks(self.model.start(x)).float() - x @ self.wanted).square().mean(1)
        return (errors * shares).sum()

    def filled(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[1].sum()


def test_every_sample_weighs_the_same_and_the_reported_loss_is_the_mean_of_samples(tmp_path):
    """A batch with one of 8 places filled has an eighth of that sample's gradient."""
    config = replace(CONFIG, log_every=1, steps=1)
    (lone,) = train(objective := Sparse({0: 1}), config, tmp_path / "lone")
    plain = Sparse({})
    x, _ = plain.batch(0, Part(0, 8, 8))
    error = plain.loss((x[:1], torch.ones(1)))
    error.backward()
    gradients = [p.grad for p in plain.model.parameters() if p.grad is not None]
    assert lone.loss == pytest.approx(error.item(), rel=1e-5)
    assert lone.grad_norm == pytest.approx(nn.utils.get_total_norm(gradients).item() / 8, rel=1e-5)
    (full,) = train(Sparse({}), config, tmp_path / "full")
    (usual,) = train(Regression(), config, tmp_path / "usual")
    assert (full.loss, full.grad_norm) == pytest.approx((usual.loss, usual.grad_norm), rel=1e-5)
    assert objective.there == {0: 1}


def test_the_guard_compares_means_of_samples(tmp_path, monkeypatch):
    """A full batch after many lone samples is not a spike."""
    seen: list[float] = []
    admit = Guard.admit
    monkeypatch.setattr(
        Guard, "admit", lambda self, step, loss, norm: seen.append(loss) or admit(self, step, loss, norm)
    )
    logged = [p.loss for p in train(Sparse({0: 1, 1: 4}), replace(CONFIG, log_every=1, steps=3), tmp_path)]
    assert seen == logged


def test_a_logged_loss_weighs_steps_by_their_samples(tmp_path):
    there = {0: 1, 1: 8}
    each = [p.loss for p in train(Sparse(there), replace(CONFIG, log_every=1, steps=2), tmp_path / "each")]
    (both,) = train(Sparse(there), replace(CONFIG, log_every=2, steps=2), tmp_path / "both")
    assert both.loss == pytest.approx((each[0] + 8 * each[1]) / 9, rel=1e-5)


def test_a_step_without_a_sample_changes_no_weight_and_is_told(tmp_path):
    config = replace(CONFIG, log_every=1, steps=5, weight_decay=0.5, evaluate_every=100, sheet_every=100)
    weights: list[Tensor] = []
    objective = Sparse({2: 0})
    notes = []
    for progress in train(objective, config, tmp_path):
        weights.append(objective.model.blocks[0].qkv.weight.detach().clone())
        notes.append(progress.notes)
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])
    assert notes[2] == ("Step 2 skipped: none of its images could be read.",)
    assert math.isnan(next(train(Sparse({0: 0}), replace(config, steps=1), tmp_path / "one")).loss)


def test_a_run_whose_images_are_gone_ends_with_a_sentence_and_its_checkpoint(tmp_path):
    gone = Sparse(dict.fromkeys(range(9, 200), 0))
    with pytest.raises(DataError, match=r"could be read: check that the data .*--resume"):
        list(train(gone, replace(CONFIG, steps=200, checkpoint_every=8), tmp_path))
    assert open_checkpoint(tmp_path).step % 8 == 0
    assert "could be read" in rows(tmp_path)[-1]["notes"][0]
