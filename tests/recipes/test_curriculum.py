"""From small images to large ones: a phase goes on from the one before, at its own resolution."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.recipes import RECIPES, curriculum, finetune
from sanakit.recipes.curriculum import ResolutionPhase
from sanakit.train.run import run_recipe
from sanakit.weights import load_configs, load_settings, load_transformer

SMALL, LARGE = 64, 128
Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    phase = ResolutionPhase(resolution=SMALL, steps=2, batch_size=2, learning_rate=1e-3)
    larger = replace(phase, resolution=LARGE, steps=1, positions=True, flow_shift=6.0)
    monkeypatch.setattr(curriculum, "PHASES", (phase, larger))
    monkeypatch.setattr(curriculum, "WORKERS", 0)
    monkeypatch.setattr(finetune, "SMALL", replace(finetune.SMALL, log_every=1, checkpoint_every=1))


@pytest.fixture(scope="module")
def pictures(write_pictures: Writer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", each=1, scale=2)


def test_a_curriculum_begins_with_new_weights_and_grows(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    settings = {"data": pictures, "output": tmp_path, "source": tiny, "resolution": LARGE}
    training = run_recipe("pretrain", RECIPES, **settings)
    first = next(training)
    assert (first.step, first.total) == (1, 2)
    training.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    with pytest.raises(SettingsError, match="resume"):
        next(run_recipe("pretrain", RECIPES, **settings))
    progress = list(run_recipe("pretrain", RECIPES, **settings, resume=True))
    assert [(one.step, one.total) for one in progress] == [(2, 2), (1, 1)]
    start, before, after = (
        load_transformer(model) for model in (tiny, tmp_path / "64px/model", tmp_path / "128px/model")
    )
    assert before.config == load_configs(tiny)[0]
    assert after.config == replace(load_configs(tiny)[0], sample_size=4, position_interpolation=1.0)
    assert load_settings(tmp_path / "128px/model").name == "tiny-128px"
    assert load_settings(tmp_path / "128px/model").width == LARGE
    assert [load_settings(tmp_path / name / "model").flow_shift for name in ("64px", "128px")] == [2.0, 6.0]
    # one step of AdamW at this rate moves a weight by about that; other weights were redrawn
    moved = [(a - b).abs().max() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert max(moved) < 0.01
    assert not torch.allclose(start.x_embedder.proj.weight, before.x_embedder.proj.weight, atol=0.05)


def test_phases_are_not_continued_with_another_model(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    """Its resolution has other phases, which would begin in folders of their own."""
    training = run_recipe("pretrain", RECIPES, data=pictures, output=tmp_path, source=tiny, resolution=LARGE)
    next(training)
    training.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert json.loads((tmp_path / "config.json").read_text())["source"]["name"] == str(tiny)
    with pytest.raises(SettingsError, match=f"--source {tiny}"):
        list(run_recipe("pretrain", RECIPES, data=pictures, output=tmp_path, resume=True))


def test_enlarging_goes_on_from_the_finished_model(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    (stage,) = curriculum.enlarge(pictures, tmp_path, source=tiny)
    assert stage.folder.name == "128px"
    transformer = stage.make(stage.folder).objective.model.get_submodule("transformer")
    for name, value in load_transformer(tiny, dtype="float32").state_dict().items():
        assert torch.equal(transformer.state_dict()[name], value)


def test_a_resolution_without_a_phase_is_refused(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="64, 128 px"):
        curriculum.enlarge(pictures, tmp_path, source=tiny, resolution=96)
    with pytest.raises(SettingsError, match="PHASES"):
        curriculum.pretrain(pictures, tmp_path, source=tiny, resolution=32)
