"""Other programs' names of options are answered with ours."""

from __future__ import annotations

from sanakit.cli import command_line
from sanakit.cli.other_names import COMMANDS, OTHERS
from sanakit.cli.typer_seams import click_command, option_names


def test_other_programs_names_are_answered_with_ours(sana) -> None:
    assert sana("generate", "a", "--cfg-scale", "3").err.endswith("Use --guidance.\n")
    assert sana("edit", "a.png", "b", "--num-inference-steps", "3").err.endswith("Use --steps.\n")
    assert sana("generate", "a", "--init-img", "a.png").err.endswith("or sana video PROMPT --image IMAGE.\n")
    assert not sana("bench", "--cfg-scale", "3").err.endswith("Use --guidance.\n")
    told = sana("generate", "--prompt", "a").err
    assert told.endswith("Use the prompt alone, in quotes.\n")
    assert "Possible options" not in told  # guesses beside an answer
    assert sana("video", "a", "--num-images", "3").err.endswith("Use --num-clips.\n")
    assert "alone" not in sana("evaluate", "pocket", "--prompt", "x").err


def test_what_people_call_a_command_is_answered_with_ours(sana) -> None:
    for line in (("page",), ("help", "page"), ("gui", "--port", "1")):
        assert sana(*line).err.endswith("Use sana ui.\n")
    assert not sana("xyz").err.endswith("Use sana ui.\n")


def test_what_is_answered_exists() -> None:
    """And an option that a command has is never another's name for something else there."""
    options = option_names(click_command(command_line()))
    assert {*COMMANDS.values()} <= options.keys()
    assert not options.keys() & COMMANDS.keys()
    drawing = {
        f"--{name}" for command in ("generate", "best-of", "video", "world") for name in options[command]
    }
    assert {target for targets in OTHERS.values() for target in targets} <= drawing
    assert not {f"--{name}" for name in options["generate"]} & OTHERS.keys()
