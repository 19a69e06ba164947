"""What a drawing session makes of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sanakit.cli.drawing.session import COMMANDS, Session, completions
from sanakit.errors import SettingsError, SizeError
from sanakit.images.image import read_metadata
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.result import Step
from sanakit.pipelines.text_to_image import TextToImage


class Lines:
    """A session of the tiny model, and what it told and showed."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.told: list[str] = []
        self.steps: list[int] = []

        @contextmanager
        def watch() -> Iterator[Callable[[Step], None]]:
            yield lambda step: self.steps.append(step.index)

        pipe = TextToImage.from_pretrained(model, device="cpu", encoder=True)
        self.session = Session(pipe, folder, self.told.append, watch)

    def __call__(self, *lines: str) -> bool:
        return [self.session.answer(line) for line in lines][-1]

    def settings(self, number: int = -1) -> dict[str, Any]:
        return read_metadata(self.session.images[number].path)


@pytest.fixture
def say(tiny: Path, tmp_path: Path) -> Lines:
    (tmp_path / "images").mkdir()
    return Lines(tiny, tmp_path / "images")


def test_a_prompt_is_drawn_into_a_numbered_file_with_its_settings(say: Lines) -> None:
    assert say("/seed 7", "a red apple!", "", "  two  ")
    names = [path.name for path in sorted(say.session.folder.iterdir())]
    assert names == ["001-a-red-apple.png", "002-two.png"]
    assert say.told[1:] == [f"{say.session.folder / name}  seed 7" for name in names]
    assert (say.settings(0)["prompt"], say.settings(0)["seed"]) == ("a red apple!", 7)
    assert say.steps == [1, 2, 1, 2]
    expected = say.session.pipe("a red apple!", seed=7).images[0]
    assert np.abs(np.asarray(say.session.images[0].image).astype(int) - np.asarray(expected)).max() <= 1


def test_numbers_go_on_after_those_that_are_there(say: Lines) -> None:
    (say.session.folder / "041-an-owl.png").touch()
    say("a fox", "☺")
    assert [one.path.name for one in say.session.images] == ["042-a-fox.png", "043-image.png"]


def test_what_is_set_holds_until_it_is_taken_back(say: Lines) -> None:
    say("/steps 1", "/size 64", "/guidance 1.5", "/negative a dog", "/seed 3", "a fox")
    expected = {"steps": 1, "width": 64, "height": 64, "guidance": 1.5, "negative_prompt": "a dog", "seed": 3}
    assert expected.items() <= say.settings().items()
    say("/steps", "/size", "/guidance", "/negative", "/seed", "a fox")
    usual = {"steps": 2, "width": 96, "height": 64, "guidance": 2.0, "negative_prompt": ""}
    assert usual.items() <= say.settings().items()
    assert say.settings()["seed"] != 3
    assert say.told[:5] == ["steps: 1", "size: 64x64", "guidance: 1.5", "negative: a dog", "seed: 3"]
    assert "size: the model's own" in say.told


def test_again_draws_the_last_prompt_from_another_seed(say: Lines) -> None:
    say("/seed 3", "a fox", "/again", "/again")
    assert [say.settings(i)["seed"] for i in range(3)] == [3, 4, 5]
    assert {say.settings(i)["prompt"] for i in range(3)} == {"a fox"}
    say("/seed random", "/again")
    assert say.settings()["seed"] != 6


def test_an_edit_begins_with_the_last_image_and_undo_goes_back(say: Lines) -> None:
    say("/seed 3", "a fox", "/strength 0.5", "/edit an owl")
    first, second = say.session.images
    assert (say.settings()["strength"], say.settings()["prompt"]) == (0.5, "an owl")
    expected = ImageToImage(say.session.pipe)(first.image, "an owl", strength=0.5, seed=3).images[0]
    assert np.abs(np.asarray(second.image).astype(int) - np.asarray(expected)).max() <= 1
    with pytest.raises(SettingsError, match="is an edit"):
        say("/again")
    say("/undo")
    assert say.told[-1] == f"{second.path} is undone, its file stays; the last image is {first.path}."
    assert second.path.exists()
    say("/undo")
    assert say.told[-1].endswith("no image is left.")
    for line in ("/undo", "/again", "/edit an owl"):
        with pytest.raises(SettingsError, match="Nothing has been drawn"):
            say(line)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/sed 3", "did you mean /seed"),
        ("/qqqqqq", "/help lists them"),
        ("/steps many", "write a number"),
        ("/steps 0", "from 1 to 1000"),
        ("/seed -1", "whole number from 0"),
        ("/guidance nan", "guidance"),
        ("/strength 2", "from 0"),
        ("/undo it", "takes nothing more"),
        ("/edit", "needs a prompt"),
    ],
)
def test_mistakes_are_told_and_change_nothing(say: Lines, line: str, told: str) -> None:
    say("/seed 3", "/steps 1", "a fox")
    before = (dict(say.session.settings), say.session.seed, say.session.strength, len(say.session.images))
    with pytest.raises(SettingsError, match=told):
        say(line)
    assert before == (
        dict(say.session.settings),
        say.session.seed,
        say.session.strength,
        len(say.session.images),
    )


def test_a_size_is_checked_when_it_is_set(say: Lines) -> None:
    with pytest.raises(SizeError):
        say("/size 99")
    assert say.session.settings == {}


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q", " /quit "])
def test_quitting_ends(say: Lines, line: str) -> None:
    assert not say(line)


def test_help_names_every_command_and_tab_completes_them(say: Lines) -> None:
    say("/help")
    for name in (*COMMANDS, "quit"):
        assert any(told.split()[0] == f"/{name}" for told in say.told), name
    assert completions("/se") == ["/seed "]
    assert completions("s") == []


def test_a_drawing_that_is_stopped_leaves_no_image(say: Lines) -> None:
    @contextmanager
    def stopping() -> Iterator[Callable[[Step], None]]:
        def stop(step: Step) -> None:
            raise KeyboardInterrupt

        yield stop

    say.session.watch = stopping
    with pytest.raises(KeyboardInterrupt):
        say("a fox")
    assert list(say.session.folder.iterdir()) == []
    assert say.session.images == []
