"""typer still is what the command takes it for beyond typer's own promises."""

from __future__ import annotations

import pytest
import typer

from sanakit.cli import command_line
from sanakit.cli.typer_seams import (
    Option,
    UsageError,
    click_command,
    extra_words,
    option_names,
    usage_sentence,
)


def test_usage_error_is_the_parent_of_every_mistake_in_a_command_line() -> None:
    assert UsageError.__name__ == "UsageError"
    assert issubclass(typer.BadParameter, UsageError)
    assert not issubclass(typer.Abort, UsageError)
    assert not issubclass(ValueError, UsageError)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["no-such-command"], "sana"),
        (["generate", "--no-such-option"], "sana generate"),
        (["generate", "a fox", "--steps", "many"], "sana generate"),
        (["data", "caption"], "sana data caption"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_commands_help(words: list[str], command: str) -> None:
    with pytest.raises(UsageError) as raised:
        command_line()(words, prog_name="sana", standalone_mode=False)
    sentence = usage_sentence(raised.value)
    assert sentence.endswith(f". `{command} --help` shows what is allowed.")
    assert "\n" not in sentence


def test_a_mistake_outside_of_a_command_names_the_whole_command() -> None:
    assert usage_sentence(UsageError("No.")) == "No. `sana --help` shows what is allowed."


def test_options_are_found_of_commands_and_of_those_in_groups() -> None:
    found = option_names(click_command(command_line()))
    assert found["generate"]["num-images"] == Option("num_images")
    assert found["generate"]["adapter"] == Option("adapter", repeated=True)
    assert found["generate"]["compile"].parameter == "compiled"
    assert "prompt" not in found["generate"]
    assert "data cache" in found


def test_words_that_were_left_over_are_found() -> None:
    with pytest.raises(UsageError) as raised:
        command_line()(["inspect", "a", "b", "c"], prog_name="sana", standalone_mode=False)
    assert extra_words(raised.value) == "b c"
    assert extra_words(UsageError("No.")) == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sana", "data", "score", "x", "--batch", 1, "-h", "--batch", 2), ""),
        (("inspect", "x", "--debug", "--debug", "--json", "--json"), ""),
        (("data", "score", "x", "--batch", 1, "--batch=2"), "--batch is given 2 times: the last one counts."),
        (("bench", "-o", "a", "--no-such"), None),
        (("convert", "x", "y", "--to", "official", "--to", "z", "--to", "official"), "--to is given 3 times"),
        (("generate", "a fox", "--adapter", "a", "--adapter", "b", "--model", "nowhere"), ""),
    ],
)
def test_an_option_that_is_typed_twice_is_told(sana, words: tuple[object, ...], told: str | None) -> None:
    outcome = sana(*words)
    if told:
        assert told in outcome.err
    else:
        assert "times" not in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        ("video", "a fox", "--model", "m", "--output", ""),
        ("video", "a fox", "--model", "m", "--image", ""),
        ("world", ""),
        ("data", "score", "x", "--output="),
        ("data", "cache", "x", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(sana, words: tuple[str, ...]) -> None:
    outcome = sana(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert "It is empty: name a file or a folder." in outcome.err
