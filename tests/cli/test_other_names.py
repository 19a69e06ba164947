"""Other programs' names of options are answered with ours."""

from __future__ import annotations

from sanakit.cli import command_line
from sanakit.cli.other_names import OTHERS
from sanakit.cli.typer_seams import click_command, option_names


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
