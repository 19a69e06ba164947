"""A clip in a real browser, begun with an image. Skipped without Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium.webdriver")
pytest.importorskip("gradio")

from PIL import Image

from sanakit.serve.web.video.panel import AS_IMAGE
from tests.serve.web.serving import served_page
from tests.serve.web.test_in_browser import IN_BROWSER, Visitor

pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def address(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_page(tmp_path_factory.mktemp("ui"), "pocket", video_folder) as address:
        yield address


def test_a_first_clip_that_is_refused_leaves_its_place_as_it_was(address: str, tmp_path: Path) -> None:
    page = Visitor(address, tmp_path / "profile")
    page.mode("Video")
    page.until(lambda: page.shows("#video-nothing .empty"))
    page.click("#video-draw")
    page.until(lambda: page.shows("#video-prompt .field-note"))
    page.until(lambda: page.shows("#video-nothing .empty"))
    page.shot("video-refused")
    page.driver.quit()


def test_a_clip_begins_with_the_image_that_was_chosen(address: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 96), "teal").save(tmp_path / "first.png")
    page = Visitor(address, tmp_path / "profile")
    page.mode("Video")
    page.click("#video-begin > button")
    page.wait('#video-image input[type="file"]').send_keys(str(tmp_path / "first.png"))
    page.until(lambda: page.all("#video-image img"))
    page.until(lambda: page.value("#video-size input") == AS_IMAGE)
    page.type("#video-prompt textarea", "waves")
    page.click("#video-draw")
    page.until(lambda: page.shows("#video-strip img"))
    page.shot("video-begins-with-image")
    shape = "const [one] = document.querySelectorAll('#video-strip img');"
    shape += " return one.naturalWidth / one.naturalHeight"
    assert page.driver.execute_script(shape) == pytest.approx(64 / 96, abs=0.02)
    assert page.hosts() == {address.removeprefix("http://")}
    page.driver.quit()
