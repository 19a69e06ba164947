"""A user's own defaults: of which options they are, what precedes what, and what is told of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.cli.defaults import config_file, read_defaults, set_by
from sanakit.errors import SettingsError

COMMANDS = {
    "generate": ("model", "steps", "num_images"),
    "edit": ("model", "steps", "strength"),
    "data cache": ("model", "batch_size"),
}


@pytest.fixture
def written(tmp_path: Path):
    """Write the file and return the environment that finds it, with further variables."""

    def write(text: str, **variables: str) -> dict[str, str]:
        environment = {"XDG_CONFIG_HOME": str(tmp_path), **variables}
        path = config_file(environment)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return environment

    return write


def test_without_a_file_or_variables_nothing_is_set(tmp_path: Path) -> None:
    assert read_defaults(COMMANDS, {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"}) == {}


def test_a_key_is_of_every_command_that_has_it_and_a_tables_of_one(written) -> None:
    environment = written('model = "own"\nsteps = 9\n[generate]\nsteps = 14\nnum-images = 2\n')
    assert read_defaults(COMMANDS, environment) == {
        "generate": {"model": "own", "steps": 14, "num_images": 2},
        "edit": {"model": "own", "steps": 9},
        "data": {"cache": {"model": "own"}},
    }


def test_variables_precede_the_file_and_one_commands_those_of_all(written) -> None:
    environment = written(
        "steps = 9\n[edit]\nsteps = 10\n",
        SANAKIT_STEPS="11",
        SANAKIT_GENERATE_STEPS="12",
        SANAKIT_DATA_CACHE_BATCH_SIZE="3",
        SANAKIT_KERNELS="off",
    )
    found = read_defaults(COMMANDS, environment)
    assert found == {
        "generate": {"steps": "12"},
        "edit": {"steps": "11"},
        "data": {"cache": {"batch_size": "3"}},
    }
    assert set_by("generate", "steps", environment) == "SANAKIT_GENERATE_STEPS"
    assert set_by("edit", "steps", environment) == "SANAKIT_STEPS"
    assert set_by("edit", "strength", environment) == str(config_file(environment))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 3", "stesp is not a setting: did you mean steps?"),
        ("[generate]\nstrength = 3", r"\[generate\] strength is not a setting"),
        ("[generat]\nsteps = 3", r"\[generat\] is not a setting: did you mean generate?"),
        ("steps =", "is not TOML"),
    ],
)
def test_mistakes_in_the_file_are_refused_by_name(written, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_defaults(COMMANDS, written(text))


def test_an_unknown_variable_is_told_and_changes_nothing(written, capsys) -> None:
    assert read_defaults(COMMANDS, written("", SANAKIT_STEP="3")) == {}
    assert capsys.readouterr().err == "Warning: SANAKIT_STEP is not a setting: did you mean SANAKIT_STEPS?\n"


def test_a_file_that_is_not_text_is_refused(written) -> None:
    environment = written("")
    config_file(environment).write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_defaults(COMMANDS, environment)


def test_the_command_draws_by_them_and_says_where_a_bad_one_is_from(
    sana, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANAKIT_MODEL", str(tiny))
    monkeypatch.setenv("SANAKIT_GENERATE_NUM_IMAGES", "2")
    outcome = sana("generate", "a fox", "--steps", 1, "--seed", 5)
    assert (outcome.code, outcome.out) == (0, "sana-5-1.png  seed 5\nsana-5-2.png  seed 6\n")
    assert sana("generate", "a fox", "--steps", 1, "-s", 5, "-n", 1).out == "sana-5_2.png  seed 5\n"
    monkeypatch.setenv("SANAKIT_STEPS", "many")
    outcome = sana("generate", "a fox")
    assert outcome.code == 2
    assert outcome.err.endswith("The value is from SANAKIT_STEPS.\n")
    assert "SANAKIT_STEPS" not in sana("generate", "a fox", "--steps", "few").err
