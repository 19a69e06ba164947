"""What a terminal shows of the image so far; the bar is tested with the command."""

from __future__ import annotations

import pytest
from PIL import Image
from rich.console import Console

from sanakit.cli.drawing.display import half_blocks


def test_half_blocks_show_two_rows_of_pixels_in_one_of_characters() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (0, 32, 64, 64))
    (*cells,) = half_blocks(picture, Console(width=64, height=100)).segments
    lines = [cell for cell in cells if cell.text == "\n"]
    characters = [cell for cell in cells if cell.text == "▀"]
    assert (len(lines), len(characters)) == (32, 64 * 32)
    assert {str(cell.style) for cell in characters[: 64 * 16]} == {"#ff0000 on #ff0000"}
    assert {str(cell.style) for cell in characters[64 * 16 :]} == {"#0000ff on #0000ff"}


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1)])
def test_half_blocks_fit_the_terminal_whatever_the_shape(size: tuple[int, int]) -> None:
    cells = list(half_blocks(Image.new("RGB", size), Console(width=40, height=20)).segments)
    rows = sum(cell.text == "\n" for cell in cells)
    assert 1 <= rows <= 20
    assert 1 <= (len(cells) - rows) / rows <= 40
