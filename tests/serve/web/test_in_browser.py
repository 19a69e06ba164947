"""The page in a real browser: previews, stopping, painting over, restoring from a PNG, wide and narrow.

Needs selenium and Chromium with its driver. The browser is a new one for each test and reaches only this
machine. With SANA_SHOTS=FOLDER set, what it shows is saved there to be looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit.images.image import read_metadata
from tests.serve.web.serving import served_page

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import ElementClickInterceptedException  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
DRIVER = shutil.which("chromedriver") or ""
SWITCHES = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update", "enable-unsafe-swiftshader"),
)
PHONE = {"width": 390, "height": 844, "pixelRatio": 2, "touch": True}
SLOW = 60  # seconds, for machines that do other things too

IN_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver is installed"),
]
pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`sana ui` as a person starts it: its address, and the folder of its images."""
    folder = tmp_path_factory.mktemp("ui")
    with served_page(folder) as address:
        yield address, folder / "pictures"


class Visitor:
    """A browser on the page, and what a person does there."""

    def __init__(self, address: str, profile: Path, *, phone: bool = False, dark: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for switch in (*SWITCHES, f"user-data-dir={profile}", "window-size=1366,900"):
            options.add_argument(f"--{switch}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        shade = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": shade})
        self.driver.get(address)
        self.wait("#prompt textarea")

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, selector: str) -> Any:
        """Wait until something is there, and give it."""
        waiting = WebDriverWait(self.driver, SLOW, poll_frequency=0.02)
        return waiting.until(lambda _: next(iter(self.all(selector)), None), selector)

    def shows(self, selector: str) -> bool:
        return any(found.is_displayed() for found in self.all(selector))

    def click(self, selector: str) -> None:
        found = self.wait(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        WebDriverWait(self.driver, SLOW).until(lambda _: found.is_displayed() and found.is_enabled())

        def clicked() -> bool:
            try:
                found.click()
            except ElementClickInterceptedException:  # Gradio covers the page while it loads
                return False
            return True

        self.until(clicked)

    def type(self, selector: str, text: str) -> None:
        field = self.wait(selector)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.TAB)

    def value(self, selector: str) -> str:
        return self.wait(selector).get_property("value")

    def until(self, truth: Any) -> None:
        WebDriverWait(self.driver, SLOW, poll_frequency=0.05).until(lambda _: truth())

    def mode(self, name: str) -> None:
        self.click(f'#mode label[data-testid="{name}-radio-label"]')

    def draw(self, prompt: str) -> None:
        """Write and press Ctrl and Enter."""
        self.type("#prompt textarea", prompt)
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    def done(self) -> None:
        self.wait("[data-state=done]")
        self.until(lambda: self.all("#pictures img"))

    def paint(self) -> None:
        """Paint over the middle of the image in the editor."""
        canvas = self.wait("#source canvas")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        stroke = ActionChains(self.driver, duration=50).move_to_element_with_offset(canvas, -25, -10)
        stroke = stroke.click_and_hold().move_by_offset(20, 10).move_by_offset(20, 0).move_by_offset(10, 10)
        stroke.release().perform()

    def shot(self, name: str) -> None:
        if folder := os.environ.get("SANA_SHOTS"):
            self.driver.save_screenshot(f"{folder}/{name}.png")

    def hosts(self) -> set[str]:
        """The addresses that the page has asked for anything."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {url.split("/")[2] for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))}


@pytest.fixture
def visit(server: tuple[str, Path], tmp_path: Path) -> Iterator[Any]:
    visitors: list[Visitor] = []

    def open_page(**how: bool) -> Visitor:
        visitors.append(Visitor(server[0], tmp_path / f"profile-{len(visitors)}", **how))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.driver.quit()


@pytest.fixture
def newest(server: tuple[str, Path]) -> Any:
    """The image that was drawn last, as a file."""
    return lambda: max(server[1].glob("page-*.png"))


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """An image of noise: it shows every pixel that was touched, and every lossy format."""
    path = tmp_path / "busy.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("how", ["wide", "phone", "dark"])
def test_a_preview_appears_before_the_picture_and_no_other_host_is_asked(
    visit: Any, newest: Any, server: tuple[str, Path], how: str
) -> None:
    page = visit(phone=how == "phone", dark=how == "dark")
    page.shot(f"{how}-empty")
    page.draw("a red apple")
    page.wait('.cells img[src^="data:image/webp"]')
    assert not page.all("[data-state=done]")
    page.shot(f"{how}-preview")
    page.done()
    page.shot(f"{how}-picture")
    assert read_metadata(newest())["prompt"] == "a red apple"
    assert read_metadata(newest())["seed"] == int(page.value("#seed input, #seed textarea"))
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    for mode in ("Create", "Edit", "Gallery"):
        page.mode(mode)
        page.until(lambda mode=mode: bool(page.all("#grid img")) == (mode == "Gallery"))
        page.until(lambda mode=mode: page.shows("#source") == (mode == "Edit"))
        assert page.driver.execute_script(overflow) <= 0
        page.shot(f"{how}-{mode.lower()}")
    assert page.hosts() == {server[0].removeprefix("http://")}


def test_several_pictures_are_shown_side_by_side_and_then_to_choose_from(visit: Any) -> None:
    page = visit()
    page.type("#count input", "4")
    page.draw("a panda")
    page.until(lambda: len(page.all(".cells img")) == 4)
    page.shot("four-previews")
    page.done()
    page.shot("four-pictures")
    before = page.value("#stage-command textarea, #stage-command input")
    page.click(
        "#pictures .grid-container > :nth-child(3) button, #pictures .grid-container > button:nth-child(3)"
    )
    page.until(lambda: page.value("#stage-command textarea, #stage-command input") != before)


def test_cancel_stops_midway_and_the_page_draws_again(visit: Any, newest: Any) -> None:
    page = visit()
    page.click("#more button")
    page.type('#steps input[type="number"]', "100")
    page.draw("a rocket")
    page.wait('.cells img[src^="data:image"]')
    page.click("#cancel")
    page.wait("[data-state=stopped]")
    page.shot("stopped")
    page.type('#steps input[type="number"]', "4")
    page.draw("a guitar")
    page.done()
    assert read_metadata(newest())["prompt"] == "a guitar"


def test_what_is_painted_over_is_drawn_anew_and_nothing_else_changes(
    visit: Any, newest: Any, busy: Path
) -> None:
    page = visit()
    page.mode("Edit")
    page.wait('#source input[type="file"]').send_keys(str(busy))
    page.wait("#source .toolbar-wrap, #source button[aria-label='Brush'], #source button[title='Brush']")
    page.click('#what label[data-testid="Painted area-radio-label"]')
    page.until(lambda: page.all('#source button[aria-label="Clear canvas"], #source canvas'))
    page.paint()
    page.shot("painted")
    page.draw("a red apple")
    page.done()
    page.shot("inpainted")
    with Image.open(newest()) as result, Image.open(busy) as source:
        assert result.size == source.size
        changed = (np.asarray(result.convert("RGB")) != np.asarray(source)).any(-1)
    rows, columns = np.nonzero(changed)
    assert 200 < changed.sum() < changed.size / 2
    assert 40 < rows.min() < rows.max() < 216
    assert 40 < columns.min() < columns.max() < 280
    assert float(read_metadata(newest())["strength"]) == 1.0
    page.mode("Create")
    page.until(lambda: not page.shows("#source"))
    page.mode("Edit")
    page.until(lambda: page.shows("#source"))
    before = newest()
    page.click("#draw")
    page.until(lambda: newest() != before)  # the image and the stroke are still there
    page.done()


def test_a_png_that_is_given_back_restores_its_settings(visit: Any, newest: Any, tmp_path: Path) -> None:
    page = visit()
    page.click('#style label[data-testid="Cartoon-radio-label"]')
    page.type("#seed input, #seed textarea", "12345678901234567")
    page.draw('a dog\'s face; "$HOME"')
    page.done()
    kept = tmp_path / "kept.png"
    shutil.copy(newest(), kept)

    other = visit()
    other.click("#from-picture button")
    other.wait('#png input[type="file"]').send_keys(str(kept))
    other.until(lambda: other.value("#prompt textarea") == 'a dog\'s face; "$HOME"')
    assert other.value("#seed input, #seed textarea") == "12345678901234567"
    assert other.wait("#style label.selected").text == "Cartoon"
    other.shot("restored")
    other.click("#draw")
    other.done()
    with Image.open(newest()) as again, Image.open(kept) as once:
        difference = np.abs(np.asarray(again, dtype=int) - np.asarray(once, dtype=int))
    assert difference.max() <= 2


def test_the_gallery_outlives_the_visit_and_gives_files_with_their_settings(
    visit: Any, newest: Any, tmp_path: Path
) -> None:
    page = visit()
    page.draw("a lemon")
    page.done()
    again = visit()
    again.mode("Gallery")
    again.click("#grid button[data-name]")
    again.wait("#chosen img")
    again.shot("gallery")
    downloads = tmp_path / "downloads"
    where = {"behavior": "allow", "downloadPath": str(downloads)}
    again.driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    again.click("#chosen-download")
    again.until(lambda: [file.name for file in downloads.glob("*.png")] == [newest().name])
    assert (downloads / newest().name).read_bytes() == newest().read_bytes()
    again.click("#chosen-restore")
    again.until(lambda: again.value("#prompt textarea") == "a lemon")
    again.mode("Gallery")
    again.click("#grid button[data-name]")
    again.click("#chosen-edit")
    again.until(lambda: again.shows("#source"))


def test_everything_is_reached_by_keyboard_and_has_a_name(visit: Any) -> None:
    page = visit()
    page.click("#prompt textarea")
    reached = []
    for _ in range(14):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.append(
            page.driver.execute_script("return document.activeElement.closest('[id]:not(input)')?.id")
        )
    order = [name for name in ("style", "draw", "size", "count", "seed", "dice") if name in reached]
    assert order == ["style", "draw", "size", "count", "seed", "dice"]
    assert [reached.index(name) for name in order] == sorted(reached.index(name) for name in order)
    unnamed = """
        return [...document.querySelectorAll('button, input, textarea, select')].filter(e => e.offsetParent)
        .filter(e => !(e.labels?.length || e.ariaLabel || e.title || e.textContent.trim() || e.ariaHidden
            || (e.getAttribute('aria-labelledby')))).map(e => e.outerHTML.slice(0, 200))
    """
    assert page.driver.execute_script(unnamed) == []


@pytest.mark.parametrize("phone", [False, True])
def test_a_mistake_is_told_at_its_field_until_that_is_changed(visit: Any, phone: bool) -> None:
    page = visit(phone=phone)

    def told(field: str, control: str = "textarea") -> str:
        """The sentence at a field, which is marked, described by it, focused and on the screen."""
        note = page.wait(f"#{field}-refused")
        seen = "const box = arguments[0].getBoundingClientRect();"
        seen += "return box.top >= 0 && box.bottom <= innerHeight"
        page.until(lambda: page.driver.execute_script(seen, note))
        typed = page.wait(f"#{field} {control}")
        assert typed.get_attribute("aria-invalid") == "true"
        assert typed.get_attribute("aria-describedby") == note.get_attribute("id")
        assert page.driver.switch_to.active_element == typed
        return note.text

    page.click("#draw")
    assert told("prompt") == "Write what to draw, such as “a red apple”."
    assert not page.shows("[data-state=failed]")  # it is said once
    page.type("#seed textarea", "minus one")
    page.draw("a red apple")
    assert "minus one" in told("seed")
    assert not page.all("#prompt-refused, #prompt [aria-invalid]")
    page.shot(f"mistake-{'phone' if phone else 'wide'}")
    page.click("#dice")
    page.until(lambda: not page.all("#seed-refused"))  # Gradio tells nobody that it changed the value
    page.type("#count input", "99")
    page.click("#draw")
    assert told("count", "input") == "Images: use a whole number from 1 to 8."
    page.until(lambda: not page.all(".toast-body"))
    page.type("#count input", "1")
    page.click("#more button")
    page.type("#guidance-kind textarea", "zzz")
    page.click("#more button")
    page.until(lambda: not page.shows("#guidance-kind"))
    page.click("#draw")
    assert "zzz" in told("guidance-kind")  # its accordion is open again
    assert page.value("#prompt textarea") == "a red apple"


def test_a_picture_without_settings_is_refused_in_a_sentence(visit: Any, busy: Path) -> None:
    page = visit()
    page.click("#from-picture button")
    page.wait('#png input[type="file"]').send_keys(str(busy))
    page.until(lambda: "carries no settings" in page.wait(".toast-body.error").text)
    page.shot("refused")
