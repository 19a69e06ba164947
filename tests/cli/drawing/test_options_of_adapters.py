"""The option --adapter of the commands that draw, and `sana inspect` of an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sanakit.adapters.save import save_adapter
from sanakit.cli.drawing.options import named_adapters, parse_adapters
from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata
from tests.adapters.loras import SANA as OTHER
from tests.adapters.loras import lora
from tests.cli.conftest import SANA


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "style.safetensors", lora(config=SANA, spread=0.5), SANA)


def test_a_weight_is_told_from_a_colon_of_the_name(tmp_path: Path) -> None:
    assert parse_adapters(None) == []
    assert parse_adapters(["a.safetensors:1e-1", "a:b"]) == [("a.safetensors", 0.1), ("a:b", 1.0)]
    odd = tmp_path / "a:1"
    odd.write_text("")
    assert parse_adapters([str(odd), f"{odd}:0.5"]) == [(str(odd), 1.0), (str(odd), 0.5)]
    for weight in ("", "strong", "nan"):
        with pytest.raises(SettingsError, match="is not a number"):
            parse_adapters([f"{odd}:{weight}"])


def test_a_server_gets_names_and_files() -> None:
    assert named_adapters(["a=x=y.safetensors", "b=z"]) == {"a": "x=y.safetensors", "b": "z"}
    for text in ("a", "=b", "a="):
        with pytest.raises(SettingsError, match="write NAME=FILE"):
            named_adapters([text])
    with pytest.raises(SettingsError, match="given twice"):
        named_adapters(["a=x", "a=y"])


def test_generate_draws_with_adapters_and_records_them(sana, tiny: Path, style: Path) -> None:
    words = ("generate", "an apple", "--model", tiny, "--seed", 1, "--steps", 1)
    assert sana(*words, "-o", "plain.png").code == 0
    outcome = sana(*words, "--adapter", f"{style}:0.5", "--adapter", style, "-o", "styled.png")
    assert (outcome.code, outcome.err) == (0, "")
    used = json.loads(str(read_metadata("styled.png")["adapters"]))
    assert [(use["name"], use["file"], use["weight"]) for use in used] == [
        ("style", "style.safetensors", 0.5),
        ("style-2", "style.safetensors", 1.0),
    ]
    assert "adapters" not in read_metadata("plain.png")
    assert Image.open("plain.png").tobytes() != Image.open("styled.png").tobytes()


@pytest.mark.parametrize("kind", ["edit", "best-of", "prompts", "bench"])
def test_other_commands_take_adapters_too(sana, tiny: Path, style: Path, kind: str) -> None:
    Image.new("RGB", (96, 64), "red").save("in.png")
    Path("p.txt").write_text("an apple\na fox\n")
    common = ("--model", tiny, "--adapter", f"{style}:0.5")
    words = {
        "edit": ("edit", "in.png", "an apple", "-o", "out.png"),
        "best-of": ("best-of", "an apple", "--count", 2, "--steps", 1, "-o", "out.png"),
        "prompts": ("generate", "--prompts", "p.txt", "-o", "out"),
        "bench": ("bench", "--runs", 1),
    }[kind]
    outcome = sana(*words, *common)
    assert (outcome.code, outcome.err) == (0, "")
    if kind != "bench":
        path = next(Path("out").glob("*.png")) if kind == "prompts" else Path("out.png")
        assert '"weight": 0.5' in str(read_metadata(path)["adapters"])


def test_a_folder_of_images_knows_the_adapters_that_drew_it(sana, tiny: Path, style: Path) -> None:
    Path("p.txt").write_text("an apple\n")
    words = ("generate", "--prompts", "p.txt", "-o", "out", "--model", tiny, "--steps", 1)
    assert "1 drawn" in sana(*words, "--adapter", f"{style}:0.5").out
    assert "0 drawn, 1 were there" in sana(*words, "--adapter", f"{style}:0.5").out
    for others in ((), ("--adapter", f"{style}:0.6")):
        outcome = sana(*words, *others)
        assert outcome.code == 2
        assert "adapters" in outcome.err


def test_a_bad_adapter_is_told_before_weights_are_read(sana, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    def load(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("sanakit.pipelines.text_to_image.load_transformer", load)
    strange = save_adapter(tmp_path / "strange.safetensors", lora(), OTHER)
    for words, said in (
        (("--adapter", "none.safetensors"), "No adapter lies at 'none.safetensors'"),
        (("--adapter", strange), "does not fit this model"),
        (("--adapter", f"{strange}:1000"), "must be a number from -100 to 100"),
    ):
        outcome = sana("generate", "an apple", "--model", tiny, *words)
        assert outcome.code == 2
        assert said in outcome.err
        assert "Traceback" not in outcome.err


def test_inspect_describes_an_adapter(sana, style: Path) -> None:
    outcome = sana("inspect", style)
    assert outcome.code == 0
    for said in ("LoRA", "rank          3", "attn1.to_q (1)", "bfloat16", "no model that is known here"):
        assert said in outcome.out
    told = json.loads(sana("inspect", style, "--json").out)
    assert told["ranks"] == [3]
    assert told["kind"] == "LoRA"
