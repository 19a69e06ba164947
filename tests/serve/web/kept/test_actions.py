"""The strip and the buttons of one image: listed, marked, deleted once the visitor is sure."""

from __future__ import annotations

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.serve.web.history import SHARED
from sanakit.serve.web.kept.actions import MOST_RECENT
from sanakit.serve.web.page import Page
from sanakit.serve.web.parts import CREATE, GALLERY
from tests.serve.web.drawing import METADATA, VISITOR


def kept(page: Page, count: int) -> list[str]:
    return [page.history.add(SHARED, Image.new("RGB", (8, 8)), METADATA) for _ in range(count)]


def test_the_strip_has_the_newest_and_the_gallery_is_listed_in_its_mode_alone(page: Page) -> None:
    names = kept(page, MOST_RECENT + 1)[::-1]
    strip = page.kept.list_recent(VISITOR)[page.stage.recent]
    assert strip.count("<li>") == MOST_RECENT
    assert names[0] in strip
    assert names[-1] not in strip
    assert set(page.kept.list(VISITOR, CREATE, "", False, 0)) == {page.stage.recent}
    assert names[-1] in page.kept.list(VISITOR, GALLERY, "", False, 0)[page.gallery.parts.grid]


def test_nothing_is_deleted_before_the_visitor_is_sure(page: Page) -> None:
    first, second, third = kept(page, 3)
    for sure in ("", "no"):
        page.kept.delete_shown(VISITOR, first, sure)
        page.kept.delete_chosen(VISITOR, second, sure, "", False, 0)
    assert len(page.history.names(SHARED)) == 3
    gone = page.kept.delete_shown(VISITOR, first, "yes")
    assert gone[page.stage.names] == []
    assert first not in gone[page.stage.recent]
    gone = page.kept.delete_chosen(VISITOR, second, "yes", "", False, 0)
    assert gone[page.gallery.parts.image]["visible"] is False
    assert page.history.names(SHARED) == [third]
    with pytest.raises(SettingsError):
        page.kept.delete_shown(VISITOR, f"page-{'0' * 12}{third[17:]}", "yes")  # of another room


def test_a_mark_is_seen_in_the_strip_and_in_the_gallery(page: Page) -> None:
    (name,) = kept(page, 1)
    assert "★" in page.kept.mark_shown(VISITOR, name)[page.stage.recent]
    assert "★" not in page.kept.mark_chosen(VISITOR, name, "", False, 0)[page.gallery.parts.grid]
