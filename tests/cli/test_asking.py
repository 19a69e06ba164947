"""What people type first gets an answer: short options, other programs' names, help, completion."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.parametrize("words", [["-h"], ["help"]])
def test_help_is_found_in_three_ways(sana, words: list[str]) -> None:
    assert sana(*words).out == sana("--help").out
    assert sana("help", "generate").out == sana("generate", "-h").out == sana("generate", "--help").out
    assert sana("help", "data", "cache").out == sana("data", "cache", "--help").out
    assert sana("help", "nonsense").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_a_shell(sana, shell: str) -> None:
    out = sana("completion", shell).out
    assert "_SANA_COMPLETE" in out
    assert f"complete_{shell}" in out


def test_a_shell_that_asks_gets_commands_and_options(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SANA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "sana gen")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert sana().out.split() == ["generate"]
    monkeypatch.setenv("COMP_WORDS", "sana generate --guid")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert sana().out.split() == ["--guidance", "--guidance-kind"]


def test_words_without_quotes_are_put_together(sana) -> None:
    for words in (
        ["generate", "a", "dog", "on", "grass"],
        ["generate", "--steps", "2", "a", "dog", "on", "grass"],
    ):
        outcome = sana(*words)
        assert outcome.code == 2
        assert outcome.err.endswith('Put the sentence in quotes: "a dog on grass".\n')
    assert "quotes" not in sana("inspect", "a", "b").err
    for words in (["a", "red", "--seed", "5", "apple"], ["a", "--steps", "2", "b", "--seed"]):
        assert "quotes" not in sana("generate", *words).err
    assert sana("generate", "a", "red", "apple", "-o", "apple").err.endswith('"a red apple".\n')


def test_a_prompt_is_read_from_standard_input(sana, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a fox\n"))
    outcome = sana("generate", "-", "--model", tiny, "--steps", 1, "-o", "fox.png", "--json")
    assert json.loads(outcome.out)["images"][0]["prompt"] == "a fox"


def test_an_empty_prompt_is_told(sana, tiny: Path) -> None:
    for prompt in ("", "  "):
        outcome = sana("generate", prompt, "--model", tiny, "--steps", 1)
        assert outcome.code == 0
        assert "the prompt is empty" in outcome.err
    assert "the prompt is empty" not in sana("generate", "a", "--model", tiny, "--steps", 1).err


def test_width_and_height_are_a_size(sana, tiny: Path) -> None:
    assert sana("generate", "a", "--model", tiny, "--steps", 1, "-W", 64, "-H", 96, "-o", "a.png").code == 0
    with Image.open("a.png") as image:
        assert image.size == (64, 96)
    assert "belong together" in sana("generate", "a", "-W", 64).err
    assert "cannot be combined" in sana("generate", "a", "-W", 64, "-H", 64, "--size", "64").err
