"""Parts that learn in turns: a step updates one of them, also where its loss has gradients for both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.train.config import TrainConfig
from sanakit.train.loop import train
from sanakit.train.parts import Part
from sanakit.train.state.checkpoint import open_checkpoint

pytestmark = pytest.mark.usefixtures("no_tensorboard")

CONFIG = TrainConfig(
    steps=6, batch_size=2, learning_rate=0.1, warmup_steps=0, log_every=1, checkpoint_every=1
)


class Turns:
    """Two numbers whose loss is that of both; the second is a hundred times as far away."""

    def __init__(self) -> None:
        self.model: nn.Module = nn.ModuleDict({"one": nn.Linear(1, 1), "other": nn.Linear(1, 1)})
        for parameter in self.model.parameters():
            nn.init.ones_(parameter)

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        pass

    def batch(self, step: int, part: Part) -> Tensor:
        return torch.tensor(1.0 if step % 2 == 0 else 100.0)

    def loss(self, batch: Tensor) -> Tensor:
        return batch * sum(parameter.square().sum() for parameter in self.model.parameters())

    def learning(self, step: int) -> str:
        return "one" if step % 2 == 0 else "other"

    def steady(self, part: str) -> bool:
        return part == "other"

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        return {}

    def sheet(self, averaged: nn.Module) -> Image.Image:
        return Image.new("RGB", (1, 1))


def test_one_part_moves_a_step_and_the_others_optimiser_counts_no_step(tmp_path: Path) -> None:
    objective = Turns()

    def weights() -> dict[str, float]:
        return {name: p.item() for name, p in objective.model.named_parameters()}

    seen = [weights(), *(weights() for _ in train(objective, CONFIG, tmp_path))]
    for step, (before, after) in enumerate(pairwise(seen)):
        moved = {name.split(".")[0] for name in before if before[name] != after[name]}
        assert moved == {objective.learning(step)}
    saved = open_checkpoint(tmp_path)
    assert saved is not None
    assert {n: v for n, v in saved.numbers["optimizers"].items() if v != 3} == {}


def test_each_part_has_its_own_usual_losses_and_line(tmp_path: Path) -> None:
    log = list(train(Turns(), CONFIG, tmp_path))
    assert [p.loss == p.loss for p in log] == [True, False] * 3  # not a number where the other learned
    assert [p.metrics.get("loss_other", 0) > 100 for p in log] == [False, True] * 3
    saved = open_checkpoint(tmp_path)
    assert saved is not None
    guards = saved.numbers["guards"]
    assert {name: len(own["losses"]) for name, own in guards.items()} == {"one": 3, "other": 3}
    assert max(guards["one"]["losses"]) < min(guards["other"]["losses"])
    assert [p.rate for p in log][1::2] == [1.0] * 3  # steady to the end
    assert log[-2].rate < 1


def test_it_resumes_in_the_right_turn(tmp_path: Path) -> None:
    whole = [p.grad_norm for p in train(Turns(), CONFIG, tmp_path / "whole")]
    list(islice(train(Turns(), CONFIG, tmp_path / "parts"), 3))
    rest = [p.grad_norm for p in train(Turns(), CONFIG, tmp_path / "parts", resume=True)]
    assert rest == whole[3:]
