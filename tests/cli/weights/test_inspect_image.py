"""`sana inspect` of an image: for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sanakit.adapters.attach import Use, recorded
from sanakit.images.image import read_metadata, save

MARK = "12" * 32


@pytest.fixture
def drawn(sana, tiny: Path) -> Path:
    words = ("generate", "a fox ☃", "--model", tiny, "--seed", 7, "--negative", "blue", "--output", "fox.png")
    assert sana(*words).code == 0
    return Path("fox.png")


def test_the_settings_of_a_drawn_image_are_told(sana, drawn: Path) -> None:
    drawn = drawn.rename("fox.pth")  # its content tells what it is
    lines = sana("inspect", drawn).out.splitlines()
    assert lines[0] == "fox.pth"
    for line in (
        "  kind            image",
        "  size            96x64",
        "  settings of     sanakit",
        "  prompt          a fox ☃",
        "  negative prompt blue",
        "  seed            7",
        "  steps           2",
        "  guidance        2.0",
        "  solver          dpm",
        "  model           tiny",
    ):
        assert line in lines
    told = json.loads(sana("inspect", drawn, "--json").out)
    assert (told["kind"], told["by"], told["format"]) == ("image", "sanakit", "PNG")
    assert told["settings"] == read_metadata(drawn)


def test_each_adapter_and_control_image_has_its_line(sana, drawn: Path) -> None:
    uses = [
        Use(name="a", file=f"{name}.safetensors", weight=0.5, fingerprint=MARK) for name in ("ink", "cat")
    ]
    controls = "edges 0.8 of 00ff by lines@90ab; mask 1 of 11aa"
    about = read_metadata(drawn) | {"adapters": recorded(uses), "control": controls, "width": 128}
    with Image.open(drawn) as image:
        save(image, "steered.png", about)
    lines = sana("inspect", "steered.png").out.splitlines()
    for line in (
        "  adapter         ink.safetensors at 0.5, fingerprint 121212121212",
        "  adapter         cat.safetensors at 0.5, fingerprint 121212121212",
        "  control         edges 0.8 of 00ff by lines@90ab",
        "  control         mask 1 of 11aa",
        "  made at         128x64",
    ):
        assert line in lines
    told = json.loads(sana("inspect", "steered.png", "--json").out)
    assert [one["file"] for one in told["settings"]["adapters"]] == ["ink.safetensors", "cat.safetensors"]
    assert told["settings"]["control"] == controls
    with Image.open(drawn) as image:
        save(image, "odd.png", about | {"adapters": "[1]"})
    assert "not a record of adapters" in sana("inspect", "odd.png").err


def test_what_another_program_wrote_cannot_steer_the_terminal(sana) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", "a\x1b[2J fox\nSteps: 3, Sam\x9bpler: \x07Euler, Seed: 1")
    Image.new("RGB", (8, 8)).save("theirs.png", pnginfo=chunks)
    out = sana("inspect", "theirs.png").out
    assert "  settings of     Stable Diffusion web UI\n" in out
    assert "  prompt          a [2J fox\n" in out
    assert "  Sam pler         Euler\n" in out
    assert not {"\x1b", "\x07", "\x9b"} & {*out}


def test_an_image_without_settings_is_told(sana, drawn: Path) -> None:
    with Image.open(drawn) as image:
        image.convert("RGB").save("bare.jpg")
    outcome = sana("inspect", "bare.jpg")
    assert outcome.code == 0
    assert "  note: It carries no settings: how it was made is not known." in outcome.out
