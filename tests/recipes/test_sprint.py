"""`sana train sprint-teacher`, then `sana train sprint`: they lead to a model that draws in one step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.errors import SettingsError
from sanakit.recipes import RECIPES, finetune, sprint
from sanakit.train.run import run_recipe
from sanakit.train.surgery import dense_time
from sanakit.weights import load_configs, load_settings
from tests.recipes.folders import Command, Writer


@pytest.fixture(autouse=True)
def quick_steps(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    monkeypatch.setattr(dense_time, "STEPS", 2)


@pytest.fixture
def sound(write_pictures: Writer, tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def test_two_commands_make_a_teacher_and_a_student_that_draws_in_one_step(
    sound: Path, tiny: Path, tmp_path: Path, command: Command
) -> None:
    words = ("--data", sound, "--batch-size", 3)
    folders = tmp_path / "teacher", tmp_path / "student"
    command("train", "sprint-teacher", "--source", tiny, "--output", folders[0], "--steps", 1, *words)
    made = load_configs(folders[0] / "model")[0]
    assert (made.time_scale, made.qk_norm, made.guidance_embed) == (1.0, True, False)
    assert load_settings(folders[0] / "model").name == "tiny-teacher"

    source = folders[0] / "model"
    command("train", "sprint", "--source", source, "--output", folders[1], "--smoke", "--data", sound)
    settings = load_settings(folders[1] / "model")
    assert (settings.solver, settings.steps, settings.guidance) == ("scm", 2, 2.0)
    rows = [json.loads(line) for line in (folders[1] / "log.jsonl").read_text().splitlines()]
    assert {"away_1", "undistilled_1", "tangent_1.0", "hinge", "loss_heads"} <= set(rows[-1])
    record = json.loads((folders[1] / "config.json").read_text())
    assert record["choices"]["consistency"]["guidance"] == [1.778, 2.0, 2.222]
    image = tmp_path / "one.png"
    command("generate", "a red apple", "--model", folders[1] / "model", "--steps", 1, "--output", image)
    assert image.is_file()


def test_a_model_that_is_no_teacher_yet_is_refused_with_the_way_there(sound, tiny, tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"tiny takes times 1000 t.*sana train sprint-teacher"):
        list(run_recipe("sprint", RECIPES, data=sound, output=tmp_path / "run", source=tiny, smoke=True))


def test_settings_follow_the_models_size(monkeypatch: pytest.MonkeyPatch) -> None:
    config, aim = sprint.settings_for("pocket", 400)
    assert (config.optimizer, config.steps, config.warmup_steps) == ("adamw", 400, 40)
    assert (aim.consistency.guidance, aim.adversarial.blocks) == ((2.222, 2.5, 2.778), (1, 4, 8, 11))
    sizes, codec = load_configs("pocket")
    wide = replace(sizes, width=finetune.PUBLISHED_WIDTH, depth=28)
    monkeypatch.setattr(sprint, "load_configs", lambda source: (wide, codec))
    config, aim = sprint.settings_for("pocket")
    assert config == replace(sprint.PUBLISHED, warmup_steps=2000)  # a tenth of the steps at most
    assert (aim.consistency.guidance, aim.adversarial.blocks) == ((4.0, 4.5, 5.0), (2, 8, 14, 20, 27))
