"""`sana generate --control`: what it draws and stores, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sanakit import ControlImage
from sanakit.cli.drawing.options import HintName
from sanakit.images.hints import HINT_KINDS
from sanakit.images.image import read_metadata
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_transformer, save_controlnet
from sanakit.weights.control import ControlFile
from sanakit.weights.find import catalog


@pytest.fixture
def hint(tmp_path: Path) -> Path:
    image = Image.new("RGB", (96, 64), "navy")
    ImageDraw.Draw(image).ellipse((10, 10, 60, 50), fill="yellow")
    image.save(tmp_path / "hint.png")
    return tmp_path / "hint.png"


@pytest.fixture
def two_blocks(tiny: Path) -> Path:
    """The tiny model with its one block twice, as a ControlNet has fewer copies than a model has blocks."""
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


def pixels(image: Path) -> bytes:
    return Image.open(image).tobytes()


def mark(image: Path) -> str:
    return ControlImage(Image.open(image)).fingerprint


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
    assert read_metadata("steered.png")["control"] == (
        f"edges 0.7 from 0 to 0.5 of {mark(hint)} by net@{ControlFile(net).fingerprint}"
    )
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


def rows(folder: Path, hint: Path) -> Path:
    """A file of prompts in another folder than this one, with the control image beside it."""
    folder.mkdir()
    Image.open(hint).save(folder / "here.png")
    Image.open(hint).rotate(180).save(folder / "turned.png")
    table = (
        "prompt,control,control_kind,control_scale\na fox,here.png,edges,0.7\nan owl,turned.png,,\na cat,,,\n"
    )
    (folder / "rows.csv").write_text(table)
    return folder / "rows.csv"


def test_rows_are_steered_as_single_images_are(sana, two_blocks, net, hint, tmp_path) -> None:
    model = ("--model", two_blocks, "--control-model", net)
    words = ("generate", "--prompts", rows(tmp_path / "far", hint), *model, "--size", "96x64", "--seed", 3)
    assert sana(*words, "--output", "o").out.startswith("o  3 drawn")
    fox = ("--control", tmp_path / "far" / "here.png", "--control-kind", "edges", "--control-scale", 0.7)
    owl = ("--control", tmp_path / "far" / "turned.png")
    for number, (prompt, steering) in enumerate((("a fox", fox), ("an owl", owl), ("a cat", ()))):
        own = model if steering else model[:2]
        sana("generate", prompt, *own, *steering, "--seed", 3 + number, "--size", "96x64", "-o", "one.png")
        drawn = Path("o") / f"{number + 1:05}-{prompt.replace(' ', '-')}.png"
        assert drawn.read_bytes() == Path("one.png").read_bytes()
    assert sana(*words, "--output", "o").out.startswith("o  0 drawn, 3 were there")


def test_rows_are_steered_by_the_controlnet_that_a_model_offers(
    sana, monkeypatch, two_blocks, net, hint, tmp_path
) -> None:
    """As a single image is: nothing is named. A file without images to steer by loads none."""
    monkeypatch.setitem(catalog.CONTROLNETS, "tiny-lines", net)
    settings = two_blocks / "sanakit.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"control_models": ["tiny-lines"]}))
    file, plain = rows(tmp_path / "far", hint), tmp_path / "plain.txt"
    plain.write_text("a fox\n")
    loaded = []
    load = TextToImage.from_pretrained

    def loading(*words, **settings):
        loaded.append(settings["control_model"])
        return load(*words, **settings)

    monkeypatch.setattr(TextToImage, "from_pretrained", loading)
    words = ("generate", "--model", two_blocks, "--size", "96x64")
    assert sana(*words, "--prompts", file, "--output", "offered").out.startswith("offered  3 drawn")
    named = sana(*words, "--prompts", file, "--control-model", net, "--output", "named")
    assert named.out.startswith("named  3 drawn")
    assert sana(*words, "--prompts", plain, "--output", "plain").out.startswith("plain  1 drawn")
    assert loaded == ["tiny-lines", str(net), None]
    for one in Path("named").glob("*.png"):
        assert pixels(Path("offered") / one.name) == pixels(one)


def test_an_image_for_all_rows_gives_way_to_a_rows_own(sana, two_blocks, net, hint, tmp_path) -> None:
    file, usual = rows(tmp_path / "far", hint), tmp_path / "usual.png"
    Image.open(hint).convert("L").save(usual)
    options = ("--control", usual, "--control-kind", "mask", "--control-range", 0, 0.5, "--size", "96x64")
    words = ("generate", "--prompts", file, "--model", two_blocks, "--control-model", net)
    assert sana(*words, *options, "--output", "o").code == 0
    told = [str(read_metadata(one)["control"]) for one in sorted(Path("o").glob("*.png"))]
    assert told[0].startswith(f"edges 0.7 from 0 to 0.5 of {mark(file.with_name('here.png'))}")
    assert told[1].startswith(f"mask 1 from 0 to 0.5 of {mark(file.with_name('turned.png'))}")
    assert told[2].startswith(f"mask 1 from 0 to 0.5 of {mark(usual)}")


def test_another_control_image_of_the_same_name_is_not_taken_for_the_one_that_was_drawn(
    sana, two_blocks, net, hint, tmp_path
) -> None:
    file = rows(tmp_path / "far", hint)
    words = ("generate", "--prompts", file, "--model", two_blocks, "--control-model", net, "--output", "o")
    assert sana(*words).code == 0
    Image.open(hint).rotate(180).save(file.with_name("here.png"))
    outcome = sana(*words)
    assert outcome.code == 2
    assert "holds other images under these names: 00001-a-fox.png (control" in outcome.err


@pytest.mark.parametrize(
    ("row", "options", "naming"),
    [
        ("a fox,hint.png,,", [], "Line 2: MODEL has no ControlNet, which a control image needs"),
        ("a fox,gone.png,,", ["--control-model", "NET"], "gone.png cannot be read"),
        ("a fox,hint.png,depth,", ["--control-model", "NET"], "control kind = 'depth'"),
        ("a fox,hint.png,,x", ["--control-model", "NET"], "control_scale = 'x', but it must be a number"),
        ("a fox,hint.png,,900", ["--control-model", "NET"], "from -100 to 100"),
        ("a fox,,edges,", ["--control-model", "NET"], "control_kind needs an image to steer by"),
        ("a fox,,,2", ["--control-model", "NET"], "control_scale needs an image to steer by"),
        ("a fox,,,", ["--control-model", "NET"], "--control-model needs images to steer by"),
        ("a fox,,,", ["--control-kind", "edges"], "--control-kind needs images to steer by"),
        ("a fox,,,", ["--control-range", "0", "0.5"], "--control-range needs images to steer by"),
        ("a fox,,,", ["--control", "HINT"], "has no ControlNet, which a control image needs"),
    ],
)
def test_what_a_row_cannot_be_steered_by_is_refused_before_loading(
    sana, monkeypatch, two_blocks, net, hint, tmp_path, row, options, naming
) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt,control,control_kind,control_scale\n{row}\n")
    monkeypatch.setattr(TextToImage, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    given = [{"NET": net, "HINT": hint}.get(word, word) for word in options]
    words = ("generate", "--prompts", tmp_path / "rows.csv", "--model", two_blocks, "--output", "o")
    outcome = sana(*words, *given)
    assert outcome.code == 2
    assert naming.replace("MODEL", two_blocks.name) in outcome.err
    assert not Path("o").exists()


def test_best_of_steers_every_candidate(sana, monkeypatch, two_blocks, net, hint) -> None:
    def clip_scorer(model: str, *, device: str):
        return lambda images, texts: [float(np.asarray(image).mean()) for image in images]

    monkeypatch.setattr("sanakit.data.annotate.scoring.clip_scorer", clip_scorer)
    words = ("a fox", "--model", two_blocks, "--control-model", net, "--control", hint)
    options = ("--control-kind", "edges", "--size", "96x64", "--seed", 7)
    kept = sana("best-of", *words, *options, "--count", 3, "--batch", 2, "-o", "b.png")
    assert kept.code == 0
    best = int(kept.out.split("seed ")[1].split()[0])
    sana("generate", *words, *options[:4], "--seed", best, "-o", "one.png")
    assert Image.open("one.png").tobytes() == Image.open("b.png").tobytes()
    assert read_metadata("b.png")["control"] == read_metadata("one.png")["control"]
    refusal = sana("best-of", "a fox", "--model", two_blocks, "--control", hint)
    assert refusal.code == 2
    assert "has no ControlNet, which --control needs" in refusal.err


def test_a_controlnet_of_another_model_is_refused_in_a_sentence(sana, two_blocks, hint, tmp_path) -> None:
    other = Sana(SanaConfig(depth=2, width=64, cross_heads=2, text_width=24, latent_channels=8))
    wide = save_controlnet(tmp_path / "wide", ControlNet.of(other, 1), other)
    outcome = sana("generate", "a fox", "--model", two_blocks, "--control", hint, "--control-model", wide)
    assert outcome.code == 2
    assert "The ControlNet was made for a model with width 64, this one has 32" in outcome.err


def test_the_command_offers_the_kinds_that_there_are() -> None:
    assert get_args(HintName) == HINT_KINDS


def test_pocket_is_steered_by_lines_without_another_word(sana, hint) -> None:
    words = ["generate", "a red apple", "--seed", 1, "--steps", 2, "--size", "64x64", "--control", hint]
    outcome = sana(*words, "--output", "steered.png")
    assert (outcome.code, outcome.out) == (0, "steered.png  seed 1\n")
    assert str(read_metadata("steered.png")["control"]).startswith(
        f"lines 1 of {mark(hint)} by pocket-lines@"
    )
    sana(*words, "--control-model", "pocket-lines", "--output", "named.png")
    assert Image.open("named.png").tobytes() == Image.open("steered.png").tobytes()
    sana(*words[:-2], "--output", "alone.png")
    assert Image.open("alone.png").tobytes() != Image.open("steered.png").tobytes()
    assert "control" not in read_metadata("alone.png")


def test_an_edit_is_steered_by_the_same_options(sana, two_blocks, net, hint) -> None:
    words = ["edit", hint, "a fox", "--model", two_blocks, "--seed", 1, "--strength", 0.5]
    options = ["--control", hint, "--control-kind", "blocks", "--control-model", net]
    outcome = sana(*words, *options, "--output", "steered.png")
    assert (outcome.code, outcome.out) == (0, "steered.png  seed 1\n")
    assert str(read_metadata("steered.png")["control"]).startswith(f"blocks 1 of {mark(hint)} by net@")
    refusal = sana(*words, "--control-model", net, "--output", "other.png")
    assert refusal.code == 2
    assert "--control-model needs an image to steer by" in refusal.err
