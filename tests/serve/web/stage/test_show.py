"""The stage: what fails leaves the images that were there, and one tab draws one thing at a time."""

from __future__ import annotations

import asyncio

import pytest

from sanakit.errors import SettingsError
from sanakit.serve.web.page import CREATE, Page
from tests.serve.web.drawing import VALUES, VISITOR, all_of, small


def test_what_fails_shows_the_images_from_before_again(page: Page) -> None:
    done = all_of(page.draw(VISITOR, CREATE, True, "", *VALUES))
    assert done[-1][page.stage.view] == {"visible": False, "__type__": "update"}
    wrong = [*VALUES[:4], 63, *VALUES[5:]]
    failed = all_of(page.draw(VISITOR, CREATE, True, "", *wrong))
    assert "failed" in failed[-1][page.stage.status]
    assert failed[-1][page.stage.view]["visible"] is False
    assert failed[-1][page.panel.draw]["interactive"] is True
    assert not any(page.stage.images in one or page.stage.details.group in one for one in failed)


def test_a_second_drawing_of_a_tab_is_refused_while_the_first_goes_on(page: Page) -> None:
    async def twice() -> None:
        first = page.showing.show(VISITOR, CREATE, page.follow(VISITOR, small(steps=1000)))
        async for update in first:
            if "drawing" in update.get(page.stage.status, ""):
                break
        with pytest.raises(SettingsError, match="wait for it, or cancel it"):
            async for _ in page.showing.show(VISITOR, CREATE, page.follow(VISITOR, small())):
                pass
        page.cancel(VISITOR)
        last = [update async for update in first][-1]
        assert "stopped" in last[page.stage.status]

    asyncio.run(twice())
    assert not page.drawings.is_drawing(VISITOR)


def test_a_series_that_is_cancelled_shows_in_the_strip_what_was_drawn(page: Page) -> None:
    async def cancelled() -> dict:
        series = page.drawings.series(VISITOR, [small(), small(steps=900)])
        update: dict = {}
        async for update in page.showing.show(VISITOR, CREATE, series):
            if "Image 2 of 2: Step" in update.get(page.stage.status, ""):
                page.cancel(VISITOR)
        return update

    last = asyncio.run(cancelled())
    assert "stopped" in last[page.stage.status]
    assert last[page.stage.recent].count("<li>") == 1


def test_several_images_are_a_grid_and_one_is_large(page: Page) -> None:
    one = all_of(page.draw(VISITOR, CREATE, True, "", *VALUES))[-1]
    assert (one[page.stage.images]["preview"], one[page.stage.images]["selected_index"]) == (True, 0)
    many = all_of(page.draw(VISITOR, CREATE, True, "", *VALUES[:11], 3, *VALUES[12:]))[-1]
    assert (many[page.stage.images]["preview"], many[page.stage.images]["columns"]) == (False, 2)
    assert many[page.stage.recent].count("<li>") == 4
