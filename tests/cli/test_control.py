"""`sana generate --control`: what it draws and stores, and what is refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image, ImageDraw

from sanakit.cli.options import HintName
from sanakit.images.hints import HINT_KINDS
from sanakit.images.image import read_metadata
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_transformer, save_controlnet


@pytest.fixture
def hint(tmp_path: Path) -> Path:
    image = Image.new("RGB", (96, 64), "navy")
    ImageDraw.Draw(image).ellipse((10, 10, 60, 50), fill="yellow")
    image.save(tmp_path / "hint.png")
    return tmp_path / "hint.png"


@pytest.fixture
def two_blocks(tiny: Path) -> Path:
    """The tiny model with its one block twice, as a ControlNet has fewer copies than a model has blocks."""
    import json

    from safetensors.torch import load_file, save_file

    config = tiny / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 2}))
    file = tiny / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state |= {name.replace("blocks.0.", "blocks.1."): one.clone() for name, one in state.items()}
    save_file(state, file)
    return tiny


@pytest.fixture
def net(two_blocks: Path, tmp_path: Path) -> Path:
    base = load_transformer(two_blocks)
    made = ControlNet.of(base, 1)
    torch.nn.init.normal_(made.controlnet[0].after_proj.weight, std=0.5)
    return save_controlnet(tmp_path / "net", made, base)


def refused(sana, monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """Run the command, which must fail before a model is loaded; return the sentence."""

    def loaded(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(TextToImage, "from_pretrained", loaded)
    outcome = sana("generate", "a fox", *words)
    assert outcome.code == 2
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def test_a_control_image_steers_and_its_settings_are_stored(sana, two_blocks, net, hint) -> None:
    words = ["generate", "a fox", "--model", two_blocks, "--seed", 1, "--control-model", net]
    options = ["--control-kind", "edges", "--control-scale", 0.7, "--control-range", 0, 0.5]
    outcome = sana(*words, "--control", hint, *options, "--output", "steered.png")
    assert (outcome.code, outcome.err) == (0, "")
    assert read_metadata("steered.png")["control"] == "edges 0.7 from 0 to 0.5"
    assert "control" not in read_metadata(_plain(sana, two_blocks))


def _plain(sana, model: Path) -> str:
    assert sana("generate", "a fox", "--model", model, "--seed", 1, "--output", "plain.png").code == 0
    return "plain.png"


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        (["--control-model", "NET"], "--control-model needs an image to steer by"),
        (["--control-kind", "edges"], "--control-kind needs an image"),
        (["--control-scale", "0.5"], "--control-scale needs an image"),
        (["--control-range", "0", "0.5"], "--control-range needs an image"),
        (["--control", "HINT"], "has no ControlNet, which --control needs: name one with --control-model"),
        (["--control", "missing.png", "--control-model", "NET"], "missing.png cannot be read"),
        (["--control", "HINT", "--control-model", "NET", "--control-scale", "nan"], "control scale = nan"),
        (
            ["--control", "HINT", "--control-model", "NET", "--control-range", "1", "0"],
            "the end must be later",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_loading(
    sana, monkeypatch, two_blocks, net, hint, options, naming
) -> None:
    words = [{"NET": net, "HINT": hint}.get(word, word) for word in options]
    assert naming in refused(sana, monkeypatch, "--model", two_blocks, *words)


def test_a_file_of_prompts_takes_no_control_yet(sana, monkeypatch, tiny, hint) -> None:
    Path("prompts.txt").write_text("a fox\n")
    monkeypatch.setattr(TextToImage, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    outcome = sana(
        "generate", "--prompts", "prompts.txt", "--model", tiny, "--output", "o", "--control", hint
    )
    assert outcome.code == 2
    assert "--prompts and --control cannot be combined" in outcome.err


def test_a_controlnet_of_another_model_is_refused_in_a_sentence(sana, two_blocks, hint, tmp_path) -> None:
    other = Sana(SanaConfig(depth=2, width=64, cross_heads=2, text_width=24, latent_channels=8))
    wide = save_controlnet(tmp_path / "wide", ControlNet.of(other, 1), other)
    outcome = sana("generate", "a fox", "--model", two_blocks, "--control", hint, "--control-model", wide)
    assert outcome.code == 2
    assert "The ControlNet was made for a model with width 64, this one has 32" in outcome.err


def test_the_command_offers_the_kinds_that_there_are() -> None:
    assert get_args(HintName) == HINT_KINDS


def test_an_edit_is_steered_by_the_same_options(sana, two_blocks, net, hint) -> None:
    words = ["edit", hint, "a fox", "--model", two_blocks, "--seed", 1, "--strength", 0.5]
    options = ["--control", hint, "--control-kind", "blocks", "--control-model", net]
    outcome = sana(*words, *options, "--output", "steered.png")
    assert (outcome.code, outcome.out) == (0, "steered.png  seed 1\n")
    assert read_metadata("steered.png")["control"] == "blocks 1"
    refusal = sana(*words, "--control-model", net, "--output", "other.png")
    assert refusal.code == 2
    assert "--control-model needs an image to steer by" in refusal.err
