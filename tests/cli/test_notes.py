"""What commands tell, on standard error, of prompts and sizes that a model does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sanakit.cli.drawing.batch import _lines
from sanakit.text.known_things import FILE, KnownThings

KNOWN = KnownThings({"a red apple": ("an apple",), "a fox": (), "a table": ()}, threshold=9.0)


@pytest.fixture
def model(tiny: Path) -> Path:
    (tiny / FILE).write_text(KNOWN.text(), encoding="utf-8")
    ours = json.loads((tiny / "sanakit.json").read_text()) | {"sizes": [[96, 64], [64, 64]]}
    (tiny / "sanakit.json").write_text(json.dumps(ours), encoding="utf-8")
    return tiny


def test_a_prompt_with_nothing_known_is_drawn_with_one_line_of_warning(sana, model: Path) -> None:
    outcome = sana("generate", "quantum entanglement", "--model", model, "--num-images", 2, "-o", "q.png")
    assert outcome.code == 0
    assert outcome.err.startswith(
        'Warning: Nothing in "quantum entanglement" is near a thing that tiny knows.'
    )
    assert outcome.err.count("\n") == 1
    assert Path("q-2.png").is_file()


def test_json_has_the_warnings_and_a_known_thing_has_none(sana, model: Path) -> None:
    told = json.loads(sana("generate", "physics", "--model", model, "-o", "p.png", "--json").out)["warnings"]
    assert len(told) == 1
    assert sana("generate", "two foxes", "--model", model, "-o", "f.png").err == ""


def test_a_size_that_was_not_learned_is_told_and_the_picture_has_it(sana, model: Path) -> None:
    outcome = sana("generate", "a fox", "--model", model, "--size", "101x99", "-o", "f.png", "--json")
    report = json.loads(outcome.out)
    assert (report["images"][0]["width"], report["images"][0]["height"]) == (101, 99)
    assert report["warnings"] == [
        "tiny did not learn the size 101x99: the image is drawn at 64x64, the nearest that it learned, and "
        "resized."
    ]


def test_lines_of_a_file_of_prompts_are_named(sana, model: Path) -> None:
    Path("prompts.txt").write_text("a fox\nphysics\nan apple\n")
    outcome = sana("generate", "--prompts", "prompts.txt", "--model", model, "--num-images", 2, "--size", 80)
    assert outcome.code == 0
    size, unknown = outcome.err.strip().splitlines()
    assert size.startswith("Warning: Lines 1, 2, 3: tiny did not learn the size 80x80")
    assert unknown.startswith('Warning: Line 2: Nothing in "physics"')


def test_of_many_lines_a_few_are_named() -> None:
    assert _lines([4]) == "Line 4"
    assert _lines([1, 2, 5, 6, 9]) == "Lines 1, 2, 5 and 2 more"
