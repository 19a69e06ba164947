"""`sana train pocket-sprint`: pocket, or a model as small, distilled on made-up shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.pocket.data import toy
from sanakit.pocket.data.samples import list_samples
from sanakit.pocket.recipes import RECIPES
from sanakit.pocket.recipes import sprint as recipe
from sanakit.pocket.train import drawings
from sanakit.pocket.train import sprint as training
from sanakit.train.distill.ladd import judged_blocks
from sanakit.train.objectives import sprint as objective
from sanakit.train.run import run_recipe
from sanakit.weights import load_configs, load_settings

pytestmark = pytest.mark.thorough


def test_two_steps_lead_to_a_sprint_model_with_pockets_words(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(toy, "THINGS", 4)
    monkeypatch.setattr(drawings, "WATCHED_SCENES", 2)
    monkeypatch.setattr(objective, "MEASURED", 1)
    monkeypatch.setattr(training, "SHEET", training.SHEET[:1])
    monkeypatch.setattr(training, "list_samples", lambda *given: list_samples(*given)[:12])
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    data = toy.build_toy(tmp_path / "data" / "pocket")
    *_, last = run_recipe("pocket-sprint", RECIPES, data=data, output=tmp_path / "run", smoke=True)
    assert {"away_1", "scenes_away_1", "hinge"} <= set(last.metrics)
    assert [note for note in last.notes if "There are no further designs" not in note] == []
    settings = load_settings(tmp_path / "run" / "model")
    assert (settings.name, settings.solver, settings.steps) == ("pocket-sprint", "scm", 2)
    assert settings.known_things is not None


def test_the_heads_of_a_deeper_source_are_spread_over_its_depth(tmp_path: Path, monkeypatch) -> None:
    found = []
    deeper = replace(load_configs("pocket")[0], depth=18)
    monkeypatch.setattr(recipe, "load_configs", lambda source: (deeper, None))
    monkeypatch.setattr(recipe, "pocket_sprint_run", lambda *given, scenes: found.append(given[-1]))
    recipe.sprint(tmp_path, tmp_path)
    assert found[0].adversarial.blocks == judged_blocks(18) != judged_blocks(12)
