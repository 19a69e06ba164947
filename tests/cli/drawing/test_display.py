"""What a terminal shows of the image so far; the bar is tested with the command."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from sanakit.cli.drawing.display import _so_far, half_blocks
from sanakit.pipelines.result import LastStep, Result, Step


def test_half_blocks_show_two_rows_of_pixels_in_one_of_characters() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (0, 32, 64, 64))
    (*cells,) = half_blocks(
        picture, Console(width=64, height=100, color_system="truecolor", no_color=False)
    ).segments
    lines = [cell for cell in cells if cell.text == "\n"]
    characters = [cell for cell in cells if cell.text == "▀"]
    assert (len(lines), len(characters)) == (32, 64 * 32)
    assert {str(cell.style) for cell in characters[: 64 * 16]} == {"#ff0000 on #ff0000"}
    assert {str(cell.style) for cell in characters[64 * 16 :]} == {"#0000ff on #0000ff"}


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1)])
def test_half_blocks_fit_the_terminal_whatever_the_shape(size: tuple[int, int]) -> None:
    cells = list(
        half_blocks(Image.new("RGB", size), Console(width=40, height=20, color_system="truecolor")).segments
    )
    rows = sum(cell.text == "\n" for cell in cells)
    assert 1 <= rows <= 20
    assert 1 <= (len(cells) - rows) / rows <= 40


@pytest.mark.parametrize("plain", [{"no_color": True, "color_system": "truecolor"}, {"color_system": None}])
def test_without_colours_signs_tell_dark_from_light(plain: dict[str, Any]) -> None:
    picture = Image.new("L", (64, 64), "white")
    picture.paste("black", (0, 0, 32, 64))
    text = "".join(
        cell.text for cell in half_blocks(picture, Console(width=64, height=100, **plain)).segments
    )
    assert set(text.splitlines()) == {"@" * 32 + " " * 32}
    assert len(text.splitlines()) == 32


def test_the_last_step_shows_the_image_itself() -> None:
    image, blurred = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    facts: dict[str, Any] = {
        "index": 1,
        "total": 1,
        "latents": None,
        "clean": [None],
        "draw": lambda _: blurred,
    }
    drawn = Result(images=[image], seeds=[1], timings={}, metadata=[{}], warnings=[])
    assert _so_far(LastStep(**facts, drawn=drawn)) is image
    assert _so_far(Step(**facts)) is blurred
