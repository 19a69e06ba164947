"""Axes of a grid: lists as people type them, and the wish of each cell."""

from __future__ import annotations

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.serve.web.grid.axes import NOTHING, SETTINGS, cells_of, read_axis, recorded
from tests.serve.web.drawing import small


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("Steps", "4, 8,16", ("4", "8", "16")),
        ("Steps", " 1-4, 8, 8,", ("1", "2", "3", "4", "8")),
        ("Seed", "7 - 9", ("7", "8", "9")),
        ("Guidance", "1, 2.5", ("1", "2.5")),
        ("Guidance kind", "cfg; apg,limit=2; interval=0.2-0.9", ("cfg", "apg,limit=2", "interval=0.2-0.9")),
        ("Prompt", "a cat, sitting; a dog", ("a cat, sitting", "a dog")),
        (NOTHING, "whatever", ("",)),
    ],
)
def test_a_list_is_read_as_it_is_meant(name: str, text: str, values: tuple[str, ...]) -> None:
    assert read_axis(name, text).values == values


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("Steps", "", "Steps has 0 values in the grid: write 1 to 12, parted by commas."),
        ("Prompt", " ; ", "parted by semicolons"),
        ("Steps", "1-100", "'1-100' of Steps"),
        ("Steps", "9-3", "rising range"),
        ("Guidance", ",".join(map(str, range(13))), "has 13 values"),
        ("Colour", "red", "no axis 'Colour'"),
    ],
)
def test_other_lists_are_refused_with_the_name_of_the_setting(name: str, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_axis(name, text)
    assert told in str(refused.value)


def test_cells_go_row_by_row_and_change_nothing_else() -> None:
    wish = small(num_images=4, seed="5")
    cells = cells_of(wish, read_axis("Steps", "2, 3"), read_axis("Guidance", "1, 4"))
    assert [(one.steps, one.guidance) for one in cells] == [(2, 1.0), (3, 1.0), (2, 4.0), (3, 4.0)]
    assert {(one.seed, one.prompt, one.num_images) for one in cells} == {("5", "a red apple", 1)}


def test_every_setting_is_set_in_the_wish() -> None:
    control = {"name": "a", "image": Image.new("RGB", (8, 8)), "kind": None, "scale": 1.0}
    wish = small(seed="5", control=[control | {"start": 0.0, "end": 1.0}])
    told = {"Guidance kind": "apg", "Solver": "euler", "What not to draw": "a dog", "Prompt": "a cat"}
    for name in SETTINGS:
        (cell,) = cells_of(wish, read_axis(name, told.get(name, "3")), read_axis(NOTHING, ""))
        changed = {
            key
            for key in (
                "steps",
                "guidance",
                "guidance_kind",
                "seed",
                "solver",
                "negative_prompt",
                "prompt",
                "control",
            )
            if getattr(cell, key) != getattr(wish, key)
        }
        assert len(changed) == 1, name
    assert [one["scale"] for one in wish.control] == [1.0]


@pytest.mark.parametrize(
    ("across", "down", "told"),
    [
        ((NOTHING, ""), (NOTHING, ""), "choose a setting"),
        (("Steps", "1"), ("Steps", "2"), "both sides"),
        (("Steps", "1-7"), ("Seed", "1-6"), "7 x 6 images are too many"),
        (("Steps", "2.5"), (NOTHING, ""), "'2.5' in the grid is not a whole number"),
        (("Guidance", "much"), (NOTHING, ""), "'much' in the grid is not a number"),
        (("Seed", "x"), (NOTHING, ""), "seed 'x'"),
        (("Control strength", "1"), (NOTHING, ""), "without a ControlNet"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused(across: tuple, down: tuple, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cells_of(small(), read_axis(*across), read_axis(*down))
    assert told in str(refused.value)


def test_the_sheet_records_its_axes() -> None:
    told = recorded((read_axis("Steps", "2, 3"), read_axis(NOTHING, "")))
    assert told == {"grid_across": "Steps: 2; 3", "grid_down": "Nothing: "}
