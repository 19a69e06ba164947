"""`sana train control`: one command makes a ControlNet of captioned images, another one draws with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sanakit import ControlImage
from sanakit.cli import main
from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata
from sanakit.images.opening import open_image
from sanakit.recipes import RECIPES, control, finetune
from sanakit.train.run import run_recipe
from sanakit.weights import describe, load_controlnet
from sanakit.weights.control import ControlFile

Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """The recipe as it is, but read by this process, and with a look at every step."""
    every = {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 100, "sheet_every": 100}
    monkeypatch.setattr(finetune, "WORKERS", 0)
    monkeypatch.setattr(control, "SMALL", replace(control.SMALL, **every))


@pytest.fixture
def pictures(write_pictures: Writer, tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def deep(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model with its block four times: half of them are copied."""
    folder = Path(shutil.copytree(tiny, tmp_path / "deep"))
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 4}))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    for number in (1, 2, 3):
        state |= {
            n.replace("blocks.0.", f"blocks.{number}."): one.clone() for n, one in state.items() if ".0." in n
        }
    save_file(state, file)
    return folder


def sana(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_one_command_trains_one_and_another_draws_with_it(
    pictures, deep, tmp_path, monkeypatch, capsys
) -> None:
    output = tmp_path / "run"
    words = ("train", "control", "--data", pictures, "--source", deep, "--output", output)
    assert sana(*words, "--steps", 2, "--batch-size", 3) == 0
    net = load_controlnet(output / "model")
    assert (net.order, net.config.depth) == ("native", 2)
    part = describe(output / "model").parts[0]
    assert (part.kind, part.missing, part.unexpected) == ("controlnet", (), ())
    assert "trained on lines" in part.size
    assert Image.open(sorted((output / "sheets").iterdir())[-1]).width > 64
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert {"right_0.85", "none_0.85", "other_0.85"} <= set(rows[-1])
    monkeypatch.chdir(tmp_path)
    shown = next(pictures.glob("*.png"))
    options = (
        "--control",
        shown,
        "--control-model",
        output / "model",
        "--output",
        "steered.png",
        "--steps",
        1,
    )
    assert sana("generate", "a red apple", "--model", deep, *options) == 0
    net = ControlFile(output / "model").fingerprint
    shown = ControlImage(open_image(Path(shown), "it")).fingerprint
    assert read_metadata("steered.png")["control"] == f"lines 1 of {shown} by model@{net}"


def test_smoke_takes_two_small_steps(pictures, deep, tmp_path) -> None:
    output = tmp_path / "run"
    *_, last = run_recipe("control", RECIPES, data=pictures, output=output, source=deep, smoke=True)
    assert (last.step, last.total) == (2, 2)
    assert (output / "model" / "config.json").is_file()


def test_a_resumed_run_ends_as_one_that_was_never_stopped(pictures, deep, tmp_path) -> None:
    words = {"data": pictures, "source": deep, "steps": 4, "batch_size": 2}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    list(run_recipe("control", RECIPES, output=whole, **words))
    list(islice(run_recipe("control", RECIPES, output=stopped, **words), 2))
    list(run_recipe("control", RECIPES, output=stopped, resume=True, **words))
    ends = [load_controlnet(folder / "model").state_dict() for folder in (whole, stopped)]
    assert all(torch.equal(one, ends[1][name]) for name, one in ends[0].items())


def test_a_model_of_one_block_has_none_to_steer(pictures, tiny, tmp_path) -> None:
    with pytest.raises(SettingsError, match="A model of a single block cannot be steered"):
        list(run_recipe("control", RECIPES, data=pictures, output=tmp_path / "run", source=tiny, smoke=True))


def test_a_one_step_model_is_refused_before_anything_is_read(pictures, deep, tmp_path) -> None:
    config = deep / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"guidance_embeds": True}))
    with pytest.raises(SettingsError, match="is a Sprint model"):
        control.control(pictures, tmp_path / "run", source=deep, smoke=True)


def test_a_published_size_has_the_published_settings() -> None:
    config = control.PUBLISHED
    assert (config.learning_rate, config.optimizer, config.batch_size) == (1e-4, "came", 16)
    assert (config.clip_norm, config.warmup_steps) == (0.1, 30)
