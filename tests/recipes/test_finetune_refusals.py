"""What training cannot do is refused with a remedy, before the first step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.errors import DataError, SettingsError
from sanakit.models.sana import Sana
from sanakit.recipes import RECIPES, finetune
from sanakit.train.run import run_recipe
from sanakit.weights import (
    convert,
    load_configs,
    load_text_encoder,
    save_diffusers,
    save_quantized,
)
from sanakit.weights.quantized import check_trainable
from tests.recipes.folders import Command, made

pytestmark = pytest.mark.usefixtures("small")


def test_what_can_not_be_trained_is_refused_with_a_remedy(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    for text in pictures.glob("*.txt"):
        text.unlink()
    with pytest.raises(DataError, match="sana data caption"):
        made(pictures, tmp_path / "a", tiny, batch_size=2)
    from sanakit.weights import load_autoencoder

    sprint = save_diffusers(
        tmp_path / "sprint",
        transformer=Sana(replace(load_configs(tiny)[0], guidance_embed=True)),
        autoencoder=load_autoencoder(tiny),
        text_encoder=load_text_encoder(tiny),
    )
    with pytest.raises(SettingsError, match="Sprint"):
        made(pictures, tmp_path / "b", sprint, batch_size=2)
    with pytest.raises(SettingsError, match="batch size of its own: omit --batch-size"):
        next(run_recipe("autoencoder", RECIPES, data=pictures, output=tmp_path / "c", batch_size=2))


@pytest.mark.parametrize("words", [{"batch_size": 0}, {"steps": 0}, {"resolution": 0}])
def test_zero_is_not_taken_for_the_recipes_own(
    pictures: Path, tiny: Path, tmp_path: Path, words: dict[str, int]
) -> None:
    with pytest.raises(SettingsError, match=r"= 0|resolution 0"):
        list(run_recipe("finetune", RECIPES, data=pictures, output=tmp_path / "run", source=tiny, **words))


def test_models_that_cannot_learn_are_refused_before_the_first_step(
    pictures: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_quantized(tiny, tmp_path / "few-bits", "int8-weight")
    with pytest.raises(
        SettingsError, match=r"few-bits is quantised by the plan int8-weight.*sana convert .*few-bits"
    ):
        made(pictures, tmp_path / "run", folder, batch_size=2)
    wide = convert(folder, tmp_path / "wide", "diffusers")
    made(pictures, tmp_path / "run", wide, batch_size=2)
    graphs = Path(shutil.copytree(tiny, tmp_path / "graphs"))
    index = {"_class_name": "SanaGraphs", "runtime": "onnx"}
    (graphs / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SettingsError, match="holds graphs for onnx, which cannot be trained"):
        check_trainable(graphs)


def test_a_resumed_run_refuses_another_source_and_tells_other_settings(
    pictures: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]
) -> None:
    """Without --source it would be pocket, whose text encoder would be in the result."""
    output = tmp_path / "run"
    words = ("train", "finetune", "--data", pictures, "--batch-size", 4, "--output", output, "--resume")
    asked = {"data": pictures, "output": output, "batch_size": 4}
    list(run_recipe("finetune", RECIPES, source=tiny, steps=2, **asked))
    record = json.loads((output / "config.json").read_text())
    assert (record["recipe"], record["source"]["name"]) == ("finetune", str(tiny))
    assert set(record["source"]["weights"]) == {"transformer", "vae", "text_encoder"}
    assert record["choices"]["instruction"] == "Draw this: "
    report = (output / "report.json").read_text()
    said = mistake(*words)
    assert f"began from {tiny}, and would continue from pocket" in said
    assert f"--source {tiny}" in said
    assert (output / "report.json").read_text() == report

    moved = Path(shutil.copytree(tiny, tmp_path / "moved"))
    rate = replace(finetune.SMALL, learning_rate=1e-5, weight_decay=0.5)
    monkeypatch.setattr(finetune, "SMALL", rate)
    (pictures / "00.txt").write_text("a green apple\n")
    first, *_ = run_recipe("finetune", RECIPES, source=moved, steps=4, resume=True, **asked)
    assert first.step == 3
    told = first.notes[0]
    for change in ("learning_rate 1e-05 instead of 0.0002", "weight_decay 0.5 instead of 0.0", "steps 4"):
        assert change in told
    assert "other images or captions" in told


def test_fewer_steps_than_are_done_are_told_on_the_command_line(
    pictures: Path, tiny: Path, tmp_path: Path, command: Command
) -> None:
    words = (
        "train",
        "finetune",
        "--data",
        pictures,
        "--source",
        tiny,
        "--batch-size",
        4,
        "--output",
        tmp_path / "run",
    )
    command(*words, "--steps", 3)
    out, err = command(*words, "--steps", 2, "--resume")
    assert "The run is at step 3 already, beyond the 2 steps asked for" in err
    assert "steps 2 instead of 3" in err
    assert "finished already" in out


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--lr", "Use --learning-rate."),
        ("--wd", "weight_decay is a setting of the recipe: change it in sanakit/recipes."),
        ("--weight-decay", "weight_decay is a setting of the recipe"),
        ("--epochs", "Use --steps."),
        ("--model", "Use --source."),
        ("--output-folder", "--output"),
    ],
)
def test_an_option_that_training_does_not_have_is_answered_with_what_to_do(
    option: str, hint: str, mistake: Callable[..., str]
) -> None:
    assert hint in mistake("train", "finetune", option, "1e-4")
