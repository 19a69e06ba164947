"""The file of known things goes where a model goes, is counted, and is asked once for each prompt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.graphs import onnx
from sanakit.text.known_things import FILE, KnownThings
from sanakit.weights import convert, describe, load_settings, load_text_encoder, save_quantized
from sanakit.weights.known_things import load_known_things, unknown_prompts

KNOWN = KnownThings(
    {"a red apple": ("an apple",), "a fox": (), "a table": ()}, threshold=2.0, unlike=("an idea",)
)


@pytest.fixture
def folder(tiny) -> Path:
    (tiny.folder / FILE).write_text(KNOWN.text(), encoding="utf-8")
    return tiny.folder


def test_a_model_without_the_file_tells_nothing(tiny) -> None:
    settings = load_settings(tiny.folder)
    assert settings.known_things is None
    assert load_known_things(settings) is None
    assert unknown_prompts(settings, ["quantum"], tiny.text_encoder) == []
    assert describe(tiny.folder).known_things == 0


@pytest.mark.parametrize("form", ["diffusers", "onnx", "quantised"])
def test_the_file_goes_along_into_every_form(folder, tmp_path, monkeypatch, form) -> None:
    monkeypatch.setattr(onnx, "write", lambda network, path, half: path.write_bytes(b""))
    target = tmp_path / form
    if form == "quantised":
        save_quantized(folder, target, "int8-weight")
    else:
        convert(folder, target, form)
    assert (target / FILE).read_text(encoding="utf-8") == KNOWN.text()
    assert load_settings(target).known_things == target / FILE
    assert "known_things" not in json.loads((target / "sanakit.json").read_text())


def test_things_and_further_words_are_counted(folder) -> None:
    found = describe(folder)
    assert (found.known_things, found.known_words) == (3, 1)


def test_each_prompt_with_nothing_known_is_told_once(folder, tiny) -> None:
    settings = load_settings(folder)
    prompts = ["quantum", "a fox", "", "quantum", "  ", "Red Apples!", "physics"]
    told = unknown_prompts(settings, prompts, tiny.text_encoder)
    assert [sentence.split('"')[1] for sentence in told] == ["quantum", "physics"]
    start = 'Nothing in "quantum" is near a thing that tiny knows. Nearest: '
    assert told[0].startswith(start)
    assert set(told[0].removeprefix(start).removesuffix(".").split(", ")) == {"red apple", "fox", "table"}


def test_the_command_that_lists_things_is_named_for_a_model_of_the_catalog(folder, tiny) -> None:
    ours = json.loads((folder / "sanakit.json").read_text()) | {"name": "pocket"}
    (folder / "sanakit.json").write_text(json.dumps(ours))
    (told,) = unknown_prompts(load_settings(folder), ["quantum"], tiny.text_encoder)
    assert told.endswith(". Try: sana models pocket")


def test_the_file_is_read_once_and_again_when_it_changed(folder, monkeypatch) -> None:
    settings = load_settings(folder)
    first = load_known_things(settings)
    assert load_known_things(load_settings(folder)) is first
    (folder / FILE).write_text(KNOWN.text().replace("a fox", "a bear"), encoding="utf-8")
    os.utime(folder / FILE, ns=(1, 1))
    again = load_known_things(settings)
    assert again is not None
    assert "a bear" in again.things


def test_places_are_those_of_the_encoder_that_is_asked(folder) -> None:
    settings = load_settings(folder)
    encoder, other = load_text_encoder(folder), load_text_encoder(folder)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(torch.linspace(-1, 2, weight.shape[-1]))
    known = load_known_things(settings)
    assert known is not None
    ((score, _),), ((another, _),) = (known.look_up(["two foxes"], one) for one in (encoder, other))
    assert score != another
    assert known.look_up(["two foxes"], encoder)[0][0] == score


def test_a_damaged_file_is_an_error_that_names_it(folder, tiny) -> None:
    (folder / FILE).write_text("[]", encoding="utf-8")
    with pytest.raises(WeightsError, match=FILE):
        unknown_prompts(load_settings(folder), ["quantum"], tiny.text_encoder)
