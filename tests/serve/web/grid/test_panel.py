"""A grid on the page: its images in the history, one sheet to download, nothing lost by a wrong value."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sanakit.images.image import read_metadata

gradio = pytest.importorskip("gradio")

from sanakit.serve.web.grid.panel import make_grid_panel  # noqa: E402
from sanakit.serve.web.history import SHARED  # noqa: E402
from sanakit.serve.web.page import CREATE, Page  # noqa: E402
from sanakit.serve.web.settings import command_line, drawn_by  # noqa: E402
from tests.serve.web.drawing import VALUES, VISITOR, all_of  # noqa: E402


def drawn(page: Page, *axes: str) -> list[dict]:
    return all_of(page.grid.draw(VISITOR, *axes, CREATE, True, "", *VALUES))  # pyright: ignore


def test_a_grid_is_one_sheet_and_single_images_with_one_seed(page: Page) -> None:
    updates = drawn(page, "Steps", "1, 2", "Guidance", "1, 3")
    area = page.grid.area
    path = updates[-1][area.sheet]
    with Image.open(path) as sheet:
        assert sheet.width > 2 * 64
        told = sheet.text  # pyright: ignore
    assert (told["grid_across"], told["grid_down"]) == ("Steps: 1; 2", "Guidance: 1; 3")
    assert read_metadata(path)["prompt"] == "a lemon"
    assert updates[-1][area.download]["value"] == path
    *names, kept = page.history.names(SHARED)[::-1]
    made = [page.history.metadata(SHARED, name) for name in names]
    assert [(one["steps"], one["guidance"]) for one in made] == [(1, 1.0), (2, 1.0), (1, 3.0), (2, 3.0)]
    assert {one["seed"] for one in made} == {7}
    assert Path(path).name == kept  # so it outlives the visit, in the gallery
    assert updates[-1][page.stage.recent].count("<li>") == 5
    assert command_line(page.history.metadata(SHARED, kept)).startswith("# a grid of images")
    _, notes = drawn_by(page.history.metadata(SHARED, kept), page.engine.specs, "pocket")
    assert notes == ["It is a grid of images: these are the settings of its first one."]


def test_a_grid_of_one_setting_refuses_nothing_while_it_is_drawn(page: Page) -> None:
    lines = [
        told[page.stage.status]
        for told in drawn(page, "Steps", "1, 2", "Nothing", "")
        if told.get(page.stage.status)
    ]
    assert 'data-state="done"' in lines[-1]
    assert not [line for line in lines if "data-field" in line]


def test_a_wrong_value_is_told_and_draws_nothing(page: Page) -> None:
    (told,) = drawn(page, "Steps", "1, x", "Nothing", "")
    assert "Steps: &#x27;x&#x27; in the grid is not a whole number" in told[page.stage.status]
    last = drawn(page, "Solver", "dpm, scm", "Nothing", "")[-1]
    assert "Image 2 of 2" in last[page.stage.status]
    assert page.grid.area.sheet not in last
    assert page.history.names(SHARED) == []


@pytest.mark.parametrize("steered", [False, True])
def test_a_control_strength_is_offered_where_there_are_controlnets_alone(steered: bool) -> None:
    with gradio.Blocks(analytics_enabled=False):
        made = make_grid_panel(steered=steered)
    for axis in (made.across, made.down):
        assert ("Control strength" in [value for _, value in axis.choices]) == steered
