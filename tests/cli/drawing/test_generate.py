"""`sana generate`: images, names, settings, what is printed where, and what a terminal shows."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from sanakit.errors import OutputError
from sanakit.images.image import read_metadata
from sanakit.pipelines.result import Step
from sanakit.pipelines.text_to_image import TextToImage


class Terminal(io.StringIO):
    """Text that thinks it is shown to a person."""

    def isatty(self) -> bool:
        return True


def test_a_picture_is_written_and_its_path_and_seed_are_printed(sana, tiny: Path) -> None:
    outcome = sana("generate", "a red apple", "--model", tiny, "--seed", 7, "--output", "apple.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, "apple.png  seed 7\n", "")
    with Image.open("apple.png") as picture:
        assert picture.size == (96, 64)  # the model's own


def test_the_models_own_settings_are_used_and_the_callers_words_win(sana, tiny: Path) -> None:
    sana("generate", "a fox", "--model", tiny, "--output", "own.png")
    words = {"steps": 3, "guidance": 1.5, "solver": "euler", "size": "64x96", "negative": "blue", "seed": 5}
    sana(
        "generate",
        "a fox",
        "--model",
        tiny,
        "--output",
        "asked.png",
        *(f"--{name}={word}" for name, word in words.items()),
    )
    own, asked = (Image.open(name).text for name in ("own.png", "asked.png"))  # pyright: ignore
    assert {"steps": "2", "guidance": "2.0", "solver": "dpm", "size": "96x64"}.items() <= own.items()
    assert {"steps": "3", "guidance": "1.5", "solver": "euler", "size": "64x96"}.items() <= asked.items()
    assert {
        "prompt": "a fox",
        "negative_prompt": "blue",
        "seed": "5",
        "model": "tiny",
    }.items() <= asked.items()


def test_weights_are_read_on_request(sana, tiny: Path) -> None:
    for name, switch in (("read", ["--prompt-weights"]), ("text", [])):
        run = sana("generate", "a (red:4) apple", "--model", tiny, "--seed", 1, "-o", f"{name}.png", *switch)
        assert ("--prompt-weights" in run.err) == (not switch)
    read, text = (read_metadata(f"{name}.png") for name in ("read", "text"))
    assert read == text | {"prompt_weights": True}
    assert Path("read.png").read_bytes() != Path("text.png").read_bytes()


def test_a_dialect_is_drawn_in_and_told_by_the_file(sana, tiny: Path) -> None:
    words = ("generate", "A RED Apple", "--model", tiny, "--seed", 3)
    for name, more in (("own.png", ()), ("native.png", ("--dialect", "native"))):
        assert sana(*words, *more, "--output", name).code == 0
    own, native = Image.open("own.png"), Image.open("native.png")
    assert ImageChops.difference(own, native).getbbox() is not None
    assert "dialect" not in own.text  # pyright: ignore
    assert native.text["dialect"] == "native"  # pyright: ignore
    outcome = sana(*words, "--dialect", "english")
    assert outcome.code == 2
    assert "native" in outcome.err


def test_the_same_seed_draws_the_same_picture_and_another_one_another(sana, tiny: Path) -> None:
    for name, seed in (("a.png", 3), ("b.png", 3), ("c.png", 4)):
        sana("generate", "a red apple", "--model", tiny, "--seed", seed, "--output", name)
    first, again, other = (Image.open(name) for name in ("a.png", "b.png", "c.png"))
    assert ImageChops.difference(first, again).getbbox() is None
    assert ImageChops.difference(first, other).getbbox() is not None


def test_several_pictures_are_numbered_and_have_seeds_in_a_row(sana, tiny: Path) -> None:
    outcome = sana(
        "generate", "a dog", "--model", tiny, "--seed", 9, "--num-images", 2, "--output", "dog.png"
    )
    assert outcome.out == "dog-1.png  seed 9\ndog-2.png  seed 10\n"
    assert Image.open("dog-2.png").text["seed"] == "10"  # pyright: ignore


def test_without_a_name_a_new_one_is_chosen_each_time(sana, tiny: Path) -> None:
    names = [
        sana("generate", "a dog", "--model", tiny, "--seed", 9, "--num-images", number).out.split()[0]
        for number in (1, 1, 2, 1)
    ]
    assert names == ["sana-9.png", "sana-9_2.png", "sana-9_3-1.png", "sana-9_4.png"]
    assert len(list(Path().iterdir())) == 5


@pytest.mark.parametrize(
    ("count", "theirs", "ours"), [(1, "sana-9.png", "sana-9_2.png"), (2, "sana-9-1.png", "sana-9_2-1.png")]
)
def test_a_name_that_another_process_took_meanwhile_is_left_to_it(
    sana, tiny: Path, monkeypatch: pytest.MonkeyPatch, count: int, theirs: str, ours: str
) -> None:
    stream = TextToImage.stream

    def slow(*words: Any, **settings: Any) -> Iterator[Step]:
        yield from stream(*words, **settings)
        Path(theirs).write_text("another process")

    monkeypatch.setattr(TextToImage, "stream", slow)
    outcome = sana("generate", "a dog", "--model", tiny, "--seed", 9, "--num-images", count)
    assert outcome.out.split()[0] == ours
    assert Path(theirs).read_text() == "another process"
    with Image.open(ours) as picture:
        assert picture.size == (96, 64)


def test_a_run_that_ends_in_an_error_leaves_no_name_behind(
    sana, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("No space is left: free some.")

    monkeypatch.setattr("sanakit.images.image.save", full)
    assert sana("generate", "a dog", "--model", tiny, "--num-images", 2).code == 2
    assert list(Path().iterdir()) == []


def test_a_random_seed_is_told_and_draws_the_picture_again(sana, tiny: Path) -> None:
    outcome = sana("generate", "a dog", "--model", tiny, "--output", "first.png")
    seed = outcome.out.split()[-1]
    sana("generate", "a dog", "--model", tiny, "--output", "again.png", "--seed", seed)
    assert ImageChops.difference(Image.open("first.png"), Image.open("again.png")).getbbox() is None


def test_a_named_file_is_replaced(sana, tiny: Path) -> None:
    Path("apple.png").write_text("old")
    assert sana("generate", "a red apple", "--model", tiny, "--output", "apple.png").code == 0
    assert Path("apple.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_one_object_with_paths_settings_and_timings(sana, tiny: Path) -> None:
    outcome = sana(
        "generate", "a dög", "--model", tiny, "--seed", 9, "--num-images", 2, "--output", "d.png", "--json"
    )
    report = json.loads(outcome.out)
    assert [image["path"] for image in report["images"]] == ["d-1.png", "d-2.png"]
    assert [image["seed"] for image in report["images"]] == [9, 10]
    assert {"prompt": "a dög", "steps": 2, "width": 96, "height": 64}.items() <= report["images"][0].items()
    assert all(seconds >= 0 for seconds in report["timings"].values())
    assert set(report["timings"]) == {"text", "denoise", "decode"}
    assert report["warnings"] == []


def test_a_prompt_that_was_cut_is_one_line_of_warning(sana, tiny: Path) -> None:
    outcome = sana("generate", "apple " * 400, "--model", tiny, "--output", "apple.png")
    assert outcome.code == 0
    assert outcome.err.startswith("Warning: ")
    assert outcome.err.count("\n") == 1


def test_a_terminal_shows_the_steps_and_with_preview_the_picture(
    sana, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}
    for preview in (False, True):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm-256color")
        outcome = sana("generate", "a dog", "--model", tiny, "--output", "dog.png", *["--preview"] * preview)
        assert outcome.out.startswith("dog.png")
        shown[preview] = screen.getvalue()
    assert "2/2" in shown[False]
    assert "s/step" in shown[False]
    assert "▀" in shown[True]
    assert "▀" not in shown[False]


def test_debug_shows_where_an_error_arose(sana) -> None:
    outcome = sana("generate", "a dog", "--model", "./nothing", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("Error: There is no file or folder './nothing'")


def test_ctrl_c_ends_with_130_and_writes_nothing(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TextToImage, "from_pretrained", interrupted)
    outcome = sana("generate", "a dog")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "Stopped.\n")
    assert list(Path().iterdir()) == []
