"""Buttons that draw from an image: variations and the image larger, on the stage and in the history."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata
from sanakit.serve.web.history import SHARED
from sanakit.serve.web.kept import variations
from sanakit.serve.web.kept.again import DrawnAgain
from sanakit.serve.web.page import Page
from sanakit.serve.web.parts import CREATE, EDIT, GALLERY
from tests.serve.web.drawing import METADATA, VISITOR, all_of

MADE: dict[str, Any] = METADATA | {"steps": 2, "solver": "dpm", "width": 64, "height": 64}


@pytest.fixture
def again(page: Page) -> DrawnAgain:
    return DrawnAgain(page.engine, page.showing, page.adapters)


def test_variations_are_shown_side_by_side_and_say_what_they_are(
    page: Page, again: DrawnAgain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variations, "NUM_VARIATIONS", 2)
    name = page.history.add(SHARED, Image.new("RGB", (64, 64), "red"), MADE)
    updates = all_of(again.vary_strongly(VISITOR, GALLERY, name, "pocket"))
    assert updates[0][page.mode] == CREATE
    last = updates[-1]
    assert last[page.stage.images]["preview"] is False
    assert last[page.stage.images]["columns"] == 2
    made = [page.history.metadata(SHARED, one) for one in last[page.stage.names]]
    assert [(one["prompt"], one["strength"], one["steps"]) for one in made] == [("a red apple", 0.8, 2)] * 2
    assert len(page.history.names(SHARED)) == 3


def test_an_image_is_enlarged_by_lanczos_where_the_model_would_do_worse_and_that_is_told(
    page: Page, again: DrawnAgain
) -> None:
    image = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    name = page.history.add(SHARED, image, MADE)
    updates = all_of(again.enlarge(VISITOR, EDIT, name, "pocket"))
    assert updates[0][page.mode] == EDIT
    (larger,) = updates[-1][page.stage.names]
    with Image.open(page.history.file(SHARED, larger)) as drawn:
        assert drawn.size == (128, 96)
        assert drawn.tobytes() == image.resize((128, 96), Image.Resampling.LANCZOS).tobytes()
    told = read_metadata(page.history.file(SHARED, larger))
    assert (told["upscale"], told["upscale_strength"]) == (2.0, 0.0)
    assert told["seed"] == MADE["seed"]
    assert "Lanczos enlarged it alone" in updates[-1][page.stage.status]
    (again_larger,) = all_of(again.enlarge(VISITOR, EDIT, larger, "pocket"))[-1][page.stage.names]
    assert read_metadata(page.history.file(SHARED, again_larger))["upscale"] == 4.0


def test_an_image_that_is_gone_is_a_sentence(again: DrawnAgain) -> None:
    for function in (again.vary_subtly, again.enlarge):
        with pytest.raises(SettingsError, match="no longer exists"):
            all_of(function(VISITOR, CREATE, "page-x.png", "pocket"))
