"""What people type first gets an answer: short options, other programs' names, help, completion."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sanakit.cli import command_line
from sanakit.cli.other_names import OTHERS
from sanakit.cli.typer_seams import click_command, option_names


@pytest.mark.parametrize("words", [["-h"], ["help"]])
def test_help_is_found_in_three_ways(sana, words: list[str]) -> None:
    assert sana(*words).out == sana("--help").out
    assert sana("help", "generate").out == sana("generate", "-h").out == sana("generate", "--help").out
    assert sana("help", "data", "cache").out == sana("data", "cache", "--help").out
    assert sana("help", "nonsense").code == 2


def test_the_package_runs_as_the_command() -> None:
    told = subprocess.run([sys.executable, "-m", "sanakit", "--version"], capture_output=True, text=True)
    assert (told.returncode, told.stdout.split()[0]) == (0, "sana")


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


def test_other_programs_names_are_answered_with_ours(sana) -> None:
    assert sana("generate", "a", "--cfg-scale", "3").err.endswith("Use --guidance.\n")
    assert sana("edit", "a.png", "b", "--num-inference-steps", "3").err.endswith("Use --steps.\n")
    assert sana("generate", "a", "--init-img", "a.png").err.endswith("Use sana edit IMAGE PROMPT.\n")
    assert not sana("bench", "--cfg-scale", "3").err.endswith("Use --guidance.\n")


def test_none_of_those_names_is_an_option_that_we_have() -> None:
    """Where one is, it would never be answered; and what is answered exists."""
    options = option_names(click_command(command_line()))
    drawing = {f"--{name.replace('_', '-')}" for name in options["generate"]}
    assert not drawing & OTHERS.keys()
    ours = {instead for instead in OTHERS.values() if instead.startswith("--")}
    assert ours - drawing <= {"--frames"}


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


def test_a_folder_gets_new_names_and_a_file_that_is_replaced_is_told(sana, tiny: Path) -> None:
    Path("out").mkdir()
    for name in ("sana-3.png", "sana-3_2.png"):
        out = sana("generate", "a", "--model", tiny, "--steps", 1, "-s", 3, "-o", "out/").out
        assert out == f"out/{name}  seed 3\n"
    outcome = sana("generate", "a", "--model", tiny, "--steps", 1, "-o", "out/sana-3.png")
    assert outcome.err == "out/sana-3.png is replaced.\n"
    assert sana("generate", "a", "--model", tiny, "--steps", 1, "-o", "out/new.png").err == ""
    assert "does not exist" in sana("generate", "a", "--model", tiny, "-o", "nowhere/a.png").err
    Path("fox-2.png").mkdir()
    assert "is a folder" in sana("generate", "a", "--model", tiny, "-n", 2, "-o", "fox.png").err


def test_width_and_height_are_a_size(sana, tiny: Path) -> None:
    assert sana("generate", "a", "--model", tiny, "--steps", 1, "-W", 64, "-H", 96, "-o", "a.png").code == 0
    with Image.open("a.png") as image:
        assert image.size == (64, 96)
    assert "belong together" in sana("generate", "a", "-W", 64).err
    assert "cannot be combined" in sana("generate", "a", "-W", 64, "-H", 64, "--size", "64").err
