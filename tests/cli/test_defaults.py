"""A user's own defaults: of which options they are, what precedes what, and what is told of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.cli.defaults import config_file, read_defaults, set_by
from sanakit.cli.typer_seams import Option
from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata

STEPS, MODEL, ADAPTER = Option("steps"), Option("model"), Option("adapter", repeated=True)
COMMANDS = {
    "generate": {"model": MODEL, "steps": STEPS, "seed": Option("seed"), "adapter": ADAPTER},
    "edit": {"model": MODEL, "steps": STEPS, "guidance-kind": Option("guidance_kind")},
    "data cache": {"model": MODEL, "batch-size": Option("batch_size")},
    "train": {"steps": STEPS, "compile": Option("compiled", switch=True)},
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


def test_a_key_is_of_every_command_that_draws_images_and_a_tables_of_one(written) -> None:
    """A default for drawing must not shorten a training."""
    environment = written('model = "own"\nsteps = 9\n[generate]\nsteps = 14\n[train]\ncompile = true\n')
    assert read_defaults(COMMANDS, environment) == {
        "generate": {"model": "own", "steps": "14"},
        "edit": {"model": "own", "steps": "9"},
        "train": {"compiled": True},
    }


def test_variables_precede_the_file_and_one_commands_those_of_all(written) -> None:
    environment = written(
        "steps = 9\n[edit]\nsteps = 10\n",
        SANAKIT_STEPS="11",
        SANAKIT_GENERATE_STEPS="12",
        SANAKIT_GUIDANCE_KIND="apg",
        SANAKIT_DATA_CACHE_BATCH_SIZE="3",
        SANAKIT_KERNELS="off",
    )
    assert read_defaults(COMMANDS, environment) == {
        "generate": {"steps": "12"},
        "edit": {"steps": "11", "guidance_kind": "apg"},
        "data": {"cache": {"batch_size": "3"}},
    }
    assert set_by("generate", "steps", environment) == "SANAKIT_GENERATE_STEPS"
    assert set_by("edit", "steps", environment) == "SANAKIT_STEPS"
    assert set_by("train", "compile", environment) == str(config_file(environment))


def test_one_value_of_an_option_that_may_be_repeated_is_a_list_of_it(written) -> None:
    assert read_defaults(COMMANDS, written('adapter = "a"\n')) == {"generate": {"adapter": ["a"]}}
    assert read_defaults(COMMANDS, written('adapter = ["a", "b"]\n')) == {"generate": {"adapter": ["a", "b"]}}
    assert read_defaults(COMMANDS, written("", SANAKIT_ADAPTER="c")) == {"generate": {"adapter": ["c"]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 3", "stesp is not a setting: did you mean steps?"),
        ("[edit]\nbatch-size = 3", r"\[edit\] batch-size is not a setting"),
        ("seed = 3", "seed is not a default but an option of one call"),
        ("[generate]\nseed = 3", r"\[generate\] seed is not a default but an option of one call"),
        ("compile = true", r"compile is not a setting of generate, edit, best-of: write it below \[train\]"),
        ("batch-size = 3", r"write it below \[data\.cache\]"),
        ("[data]\nsteps = 3", r"\[data\] is not a setting"),
        ("[data.cache]\nsteps = 3", r"\[data cache\] steps is not a setting"),
        ("[data.cash]\nmodel = 3", r"\[data\] is not a setting"),
        ("[generat]\nsteps = 3", r"\[generat\] is not a setting: did you mean generate?"),
        ("steps =", "is not TOML"),
        ("steps = true", "steps = true, but it takes a value"),
        ("[train]\nsteps = false", r"\[train\] steps = false, but it takes a value"),
        ('adapter = ["a", true]', "adapter = true, but it takes a value"),
    ],
)
def test_mistakes_in_the_file_are_refused_by_name(written, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_defaults(COMMANDS, written(text))


@pytest.mark.parametrize("value", ["14.5", "[3]", "1979-05-27", "{a = 1}"])
def test_a_value_of_another_type_is_refused_as_if_it_were_typed(sana, tmp_path: Path, value: str) -> None:
    """A fraction of steps is not rounded, and a list does not end in a traceback."""
    path = config_file({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    path.parent.mkdir(parents=True)
    path.write_text(f"[generate]\nsteps = {value}\n", encoding="utf-8")
    outcome = sana("generate", "a fox")
    assert outcome.code == 2
    assert "steps" in outcome.err
    assert outcome.err.endswith(f"The value is from {path}.\n")


def test_an_unknown_variable_is_told_and_changes_nothing(written, capsys) -> None:
    assert read_defaults(COMMANDS, written("", SANAKIT_STEP="3")) == {}
    assert capsys.readouterr().err == "Warning: SANAKIT_STEP is not a setting: did you mean SANAKIT_STEPS?\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SANAKIT_TRAIN_STEP", "is not a setting: did you mean SANAKIT_TRAIN_STEPS?"),
        ("SANAKIT_DATA_CACHE_MODLE", "is not a setting: did you mean SANAKIT_DATA_CACHE_MODEL?"),
        ("SANAKIT_GENERATE_SEED", "is not a default but an option of one call: give it there."),
        ("SANAKIT_SEED", "is not a default but an option of one call: give it there."),
    ],
)
def test_a_misspelt_variable_of_one_command_has_the_nearest_of_that(written, capsys, name, told) -> None:
    assert read_defaults(COMMANDS, written("", **{name: "3"})) == {}
    assert capsys.readouterr().err == f"Warning: {name} {told}\n"


def test_a_command_of_a_group_is_a_table_in_either_spelling(written) -> None:
    wanted = {"data": {"cache": {"batch_size": "3"}}}
    for head in ("[data.cache]", '["data cache"]', "[data]\n[data.cache]"):
        assert read_defaults(COMMANDS, written(f"{head}\nbatch-size = 3\n")) == wanted


def test_a_mark_of_windows_editors_is_no_mistake(written) -> None:
    assert read_defaults(COMMANDS, written("\ufeff[edit]\nsteps = 9\n")) == {"edit": {"steps": "9"}}


def test_a_link_that_leads_nowhere_is_not_an_absent_file(written) -> None:
    environment = written("")
    path = config_file(environment)
    path.unlink()
    path.symlink_to("nowhere.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_defaults(COMMANDS, environment)


def test_a_bad_switch_is_told_with_its_variable(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANAKIT_COMPILE", "maybe")
    outcome = sana("generate", "a fox")
    assert outcome.code == 2
    assert outcome.err.endswith("The value is from SANAKIT_COMPILE.\n")


def test_where_a_camera_goes_is_of_one_call(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANAKIT_WORLD_PATH", "w-8")
    outcome = sana("world", "photo.png", "--model", "nowhere")
    assert "SANAKIT_WORLD_PATH is not a default but an option of one call" in outcome.err
    assert "The camera path is needed once" in outcome.err


def test_a_file_that_is_not_text_is_refused(written) -> None:
    environment = written("")
    config_file(environment).write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_defaults(COMMANDS, environment)


def test_the_command_draws_by_them_and_says_where_a_bad_one_is_from(
    sana, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANAKIT_MODEL", str(tiny))
    monkeypatch.setenv("SANAKIT_GENERATE_STEPS", "1")
    assert sana("generate", "a fox", "-s", 5).out == "sana-5.png  seed 5\n"
    assert read_metadata("sana-5.png")["steps"] == 1
    assert sana("generate", "a fox", "-s", 6, "--steps", 2).code == 0
    assert read_metadata("sana-6.png")["steps"] == 2
    monkeypatch.setenv("SANAKIT_GENERATE_STEPS", "many")
    outcome = sana("generate", "a fox")
    assert outcome.code == 2
    assert outcome.err.endswith("The value is from SANAKIT_GENERATE_STEPS.\n")
    assert "SANAKIT" not in sana("generate", "a fox", "--steps", "few").err


def test_help_is_shown_whatever_the_file_holds(sana, tmp_path: Path) -> None:
    path = config_file({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    path.parent.mkdir(parents=True)
    path.write_text("nonsense = 1\n", encoding="utf-8")
    for words in (["-h"], ["help", "generate"], ["--version"], ["generate", "--help"]):
        assert sana(*words).code == 0
    outcome = sana("models")
    assert outcome.code == 2
    assert "nonsense is not a setting" in outcome.err
