"""What pocket's ControlNet learns from: which samples, and hints that belong to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.pocket.data import toy
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.recipes import control
from sanakit.pocket.train.control import MOVED, SHARES, STYLE, _samples
from sanakit.train.objectives.control import ControlObjective
from sanakit.train.parts import Part


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 12)
        return toy.build_toy(tmp_path_factory.mktemp("data") / "pocket")


def test_mirrored_drawings_and_unknown_things_are_not_learned_from(data: Path):
    pocket = open_pocket(data)
    samples = _samples(pocket, 8)
    assert samples == _samples(pocket, 8)
    assert {sample.kind for sample in samples} <= SHARES.keys()
    assert {sample.size for sample in samples} == {(256, 256)}
    moved = [sample for sample in samples if sample.kind == "varied"]
    assert len(moved) == MOVED * sum(sample.kind == "drawn" for sample in samples) > 0
    assert max(abs(sample.placement.turn) for sample in moved) > 20
    shown = [sample for sample in samples if sample.scene < 0 and pocket.rows[sample.row].style == STYLE]
    assert not any(sample.placement.flip for sample in shown)


@pytest.mark.thorough
def test_the_hints_of_a_batch_are_those_of_its_images(data: Path, tmp_path: Path):
    """The same made of the decoded latents is near, that of another sample is not."""
    run = control.control(data, tmp_path, smoke=True)
    objective = run.objective
    assert isinstance(objective, ControlObjective)
    known, objective.known = objective.known, None
    assert known is not None
    part = Part(0, 4, 4)
    given, made = known.hints(3, part), objective.batch(3, part).hints
    assert not isinstance(made, torch.Tensor)
    expected = made.encode()
    own = (given - expected).square().mean((1, 2, 3))
    other = (given - expected.roll(1, 0)).square().mean((1, 2, 3))
    assert (own < other).all()
