"""Walking in a real browser: keys, buttons, undo, branches and a replay. Skipped without Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium.webdriver")
pytest.importorskip("gradio")

from selenium.webdriver.common.keys import Keys

from tests.pipelines.world.tiny import photo
from tests.serve.web.serving import served_page
from tests.serve.web.test_in_browser import IN_BROWSER, Visitor

pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def address(walking_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_page(tmp_path_factory.mktemp("ui"), "pocket", walking_folder) as address:
        yield address


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Visitor]:
    photo(96, 64).save(tmp_path / "first.png")
    visitor = Visitor(address, tmp_path / "profile")
    visitor.mode("World")
    visitor.wait('#world-image input[type="file"]').send_keys(str(tmp_path / "first.png"))
    visitor.until(lambda: visitor.all("#world-image img"))
    yield visitor
    visitor.driver.quit()


def state(page: Visitor) -> Any:
    return page.driver.execute_script(
        "return sanaWorld.busy ? null : [sanaWorld.at, sanaWorld.moments.map((one) => one.before),"
        " Number(document.getElementById('world-canvas').dataset.frame)]"
    )


def stands(page: Visitor, at: int, frame: int) -> None:
    page.until(lambda: (now := state(page)) is not None and (now[0], now[2]) == (at, frame))


def test_a_walk_by_keys_and_buttons_goes_back_and_branches(page: Visitor, address: str) -> None:
    def enter() -> bool:  # until the upload has come
        if not page.all("#world-stage[data-state=walking]") and page.wait("#world-enter").is_enabled():
            page.click("#world-enter")
        return bool(page.all("#world-stage[data-state=walking]"))

    page.until(enter)
    stands(page, 0, 0)
    screen = page.wait("#world-screen")
    screen.send_keys("w")
    stands(page, 1, 8)
    page.wait('#world-keys [data-act="turn-left"]').send_keys(Keys.ENTER)
    stands(page, 2, 16)
    page.click('#world-time [data-do="undo"]')
    stands(page, 1, 8)
    screen.send_keys("d")
    stands(page, 3, 16)
    assert state(page)[1] == [None, 0, 1, 1]
    actions = page.driver.execute_script("return sanaWorld.moments.map((one) => one.actions)")
    assert actions[1:] == ["w-8", "a-8", "d-8"]
    assert page.wait("#world-told").text == "Moment 3 of 3: 1.0 s from the image."
    assert [one.text for one in page.all("#world-branches option")] == ["1, to moment 2", "2, to moment 3"]
    page.click('#world-time [data-do="replay"]')
    page.until(lambda: page.wait('#world-time [data-do="replay"]').text == "Replay")
    stands(page, 3, 16)
    page.click('#world-files [data-do="end"]')
    page.wait("#world-stage[data-state=empty]")
    assert page.hosts() == {address.removeprefix("http://")}


def test_a_world_without_its_image_is_refused_at_the_field(address: str, tmp_path: Path) -> None:
    visitor = Visitor(address, tmp_path / "profile")
    visitor.mode("World")
    visitor.click("#world-enter")
    note = "#world-image .field-note, #world-image + .field-note"
    visitor.until(lambda: visitor.shows(note))
    assert visitor.wait(note).text.startswith("Choose an image to walk into")
    visitor.shot("world-refused")
    photo(96, 64).save(tmp_path / "first.png")
    visitor.wait('#world-image input[type="file"]').send_keys(str(tmp_path / "first.png"))
    visitor.until(lambda: not visitor.all(note))
    visitor.driver.quit()
