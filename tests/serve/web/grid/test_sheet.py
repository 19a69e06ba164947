"""The sheet of a grid: every image in its place, labels beside them, bounded sides."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sanakit.serve.web.grid import sheet
from sanakit.serve.web.grid.axes import NOTHING, read_axis
from sanakit.serve.web.grid.sheet import GAP, make_sheet

COLOURS = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#00ffff", "#ff00ff"]


def file(colour: str, size: tuple[int, int] = (64, 48)):
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue


def test_images_are_row_by_row_with_labels_beside_them() -> None:
    across, down = read_axis("Steps", "2, 4, 8"), read_axis("Guidance", "1, 2")
    made = make_sheet([file(colour) for colour in COLOURS], across, down)
    left, top = made.width - 3 * (64 + GAP) + GAP, made.height - 2 * (48 + GAP) + GAP
    for number, colour in enumerate(COLOURS):
        place = left + number % 3 * (64 + GAP) + 32, top + number // 3 * (48 + GAP) + 24
        assert made.getpixel(place) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    pixels = np.asarray(made.convert("L"))
    assert pixels[:top, left:].min() < 100  # something is written there
    assert pixels[top:, : left - GAP].min() < 100


def test_nothing_takes_no_room_and_a_deleted_image_leaves_its_place() -> None:
    across = read_axis("Steps", "2, 4")
    made = make_sheet([file("red"), lambda: None], across, read_axis(NOTHING, ""))
    assert made.width == 2 * 64 + GAP
    assert made.getpixel((32, made.height - 24)) == (255, 0, 0)
    assert made.getpixel((64 + GAP + 32, made.height - 24)) == (255, 255, 255)


def test_a_large_grid_is_smaller_than_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST_SIDE", 150)
    prompts = read_axis("Prompt", "; ".join("x" * 200 + str(n) for n in range(4)))
    made = make_sheet([file("red", (300, 200))] * 4, prompts, read_axis(NOTHING, ""))
    assert max(made.size) <= 150
