"""Events as no page sends them: each is refused in a line, and nothing but the line is printed."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from sanakit.errors import RefusedError
from sanakit.images.image import encode
from sanakit.models.sana import Sana
from sanakit.serve.engine.decoding import PIXEL_BYTES
from sanakit.serve.jobs.database import now

gradio = pytest.importorskip("gradio")

from sanakit.serve.web.history import History  # noqa: E402
from sanakit.serve.web.mount import add_page  # noqa: E402
from sanakit.serve.web.page import CREATE, EDIT, Page  # noqa: E402
from sanakit.serve.web.parts import chosen_name  # noqa: E402

SESSION = "tab-1"


@pytest.fixture
def client(
    make_parts: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir()
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    with TestClient(parts.app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def send(client: TestClient, **event: Any) -> dict[str, Any] | None:
    """Send an event; its end, or None if it was not taken."""
    joined = client.post("/gradio_api/queue/join", json={"session_hash": SESSION, "data": []} | event)
    if joined.status_code != 200:
        assert joined.status_code < 500, joined.text
        return None
    stream = client.get("/gradio_api/queue/data", params={"session_hash": SESSION})
    lines = [line.removeprefix("data: ") for line in stream.text.splitlines() if line.startswith("data: ")]
    return [found for line in lines if (found := json.loads(line))["msg"] == "process_completed"][-1]


JUNK: list[Any] = [None, "x", [], {}, 1e308, -1, True, {"path": "/etc/passwd"}, [[None]], "\0"]


def functions(client: TestClient) -> list[dict[str, Any]]:
    return client.get("/config").json()["dependencies"]


def event_of(config: dict[str, Any], button: str) -> dict[str, Any]:
    """The event of the button with an id."""
    (trigger,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == button)
    return next(one for one in config["dependencies"] if one["targets"][0][0] == trigger)


def test_junk_in_any_event_prints_no_traceback(
    client: TestClient, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ended = 0
    for function in functions(client):
        for junk in JUNK:
            event = {"fn_index": function["id"], "data": [junk] * len(function["inputs"])}
            end = send(client, **event, event_data=junk, trigger_id=function["targets"][0][0])
            ended += end is not None
        send(client, fn_index=function["id"], data=[1])
    assert ended > 50
    assert "Traceback" not in "".join(capfd.readouterr())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert all("\n" not in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "event",
    [{"fn_index": 10**6}, {"fn_index": -1}, {"fn_index": "x"}, {"data": "x"}, {"trigger_id": {}}],
    ids=str,
)
def test_an_event_of_nothing_is_refused(
    client: TestClient, event: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    joined = client.post("/gradio_api/queue/join", json={"session_hash": SESSION, "data": []} | event)
    assert joined.status_code >= 400
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("label", "value", "told"),
    [
        ("Images", 9, "Images: use a whole number from 1 to 8."),
        ("Images", 0, "Images: use a whole number from 1 to 8."),
        ("Images", 2.5, "Images: use a whole number from 1 to 8."),
        ("Images", "many", "Images: use a whole number from 1 to 8."),
        ("Steps", None, "Steps: use a number from 1 to 100."),
        ("Guidance", 1000, "Guidance: use a number from 1 to 20."),
        ("Left, pixels", -1, "Left, pixels: use a whole number from 0 to 2048."),
        ("Width", "wide", "Width: use a whole number."),
    ],
)
def test_a_wrong_number_is_told_with_the_name_of_its_field(
    client: TestClient, label: str, value: Any, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = client.get("/config").json()
    components = {one["id"]: one["props"] for one in config["components"]}
    draw = event_of(config, "draw")
    data = [components[number].get("value") for number in draw["inputs"]]
    place = [components[number].get("label") for number in draw["inputs"]].index(label)
    end = send(client, fn_index=draw["id"], data=[*data[:place], value, *data[place + 1 :]])
    assert end is not None
    error, field = end["output"]["error"], components[draw["inputs"][place]]["elem_id"]
    assert end["success"] is False
    assert re.fullmatch(rf'<span class="told-at [^"]*\bat:{field}">{re.escape(told)}</span>', error)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_an_untouched_page_sends_draws_an_image(client: TestClient) -> None:
    config = client.get("/config").json()
    components = {one["id"]: one["props"] for one in config["components"]}
    draw = event_of(config, "draw")
    data = [components[number].get("value") for number in draw["inputs"]]
    labels = [components[number].get("label") for number in draw["inputs"]]
    assert data[labels.index("What not to draw")] is None  # as a browser sends an untouched field
    data[labels.index("Prompt")] = "a red apple"
    end = send(client, fn_index=draw["id"], data=data)
    assert end is not None
    assert end["success"]
    assert "Drawn in" in json.dumps(end["output"])


def test_each_event_of_an_untouched_page_is_understood_and_changes_nothing_to_an_empty_object(
    client: TestClient,
) -> None:
    """A browser sends the values of the page's own config; {} as an answer becomes a component's value."""
    components = {one["id"]: one["props"] for one in client.get("/config").json()["components"]}
    understood = 0
    for function in functions(client):
        trigger, event = function["targets"][0]  # of the page as a whole, where it is loaded
        data = [components[number].get("value") for number in function["inputs"]]
        of_page = function["backend_fn"] and trigger is not None  # not of the browser alone, nor of programs
        if not of_page or event == "select" or components.get(trigger, {}).get("label") == "Try":
            continue  # the last two are of something that was chosen first
        end = send(client, fn_index=function["id"], data=data, trigger_id=trigger)
        assert end is not None
        assert "does not understand" not in json.dumps(end["output"]), function
        assert {} not in end["output"].get("data", []), function
        understood += 1
    assert understood > 10


def test_a_choice_among_images_that_are_no_longer_shown_is_a_sentence() -> None:
    assert chosen_name(["a", "b"], SimpleNamespace(index=1)) == "b"  # pyright: ignore
    for odd in (2, -1, None, "0", [0], {}, 1.0):
        with pytest.raises(Exception, match="not shown any more"):
            chosen_name(["a", "b"], SimpleNamespace(index=odd))  # pyright: ignore


@pytest.fixture
def charged(make_parts: Callable[..., Any], tmp_path: Path) -> tuple[Page, list[int], Any]:
    """A page whose visitor has a key; what was charged, less what was taken back."""
    parts, ledger = make_parts(), []

    def charge(name: str, pictures: int) -> Callable[[], None]:
        ledger.append(pictures)
        return lambda: ledger.append(-pictures)

    page = Page(parts.engine, History(parts.store), charge=charge)
    with gradio.Blocks(analytics_enabled=False):
        page.lay_out()
    return page, ledger, parts


def press(page: Page, prompt: str = "a red apple", count: int = 2, mode: str = CREATE) -> str:
    """Press the button and wait; the status line."""
    import asyncio

    visitor = SimpleNamespace(session_hash=SESSION, username="ann")
    words = ["pocket", prompt, "Plain", "", 64, 64, 2, 2.5, "cfg", "dpm", "1", count, False]
    edit = [None, "Whole image", 0.6, 0, 0, 0, 0]

    async def follow() -> str:
        status = ""
        async for updates in page.draw(visitor, mode, True, "", *words, *edit):  # pyright: ignore
            status = updates.get(page.stage.status, status)
        return status

    return asyncio.run(follow())


def test_images_that_were_not_drawn_are_not_charged(
    charged: tuple[Page, list[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, ledger, parts = charged
    assert "Drawn in" in press(page)
    assert ledger == [2]
    press(page, mode=EDIT)  # without an image: nothing is charged
    press(page, prompt=" ")  # a request that is wrong
    assert ledger == [2, 2, -2]

    def refuse(*_: Any) -> None:
        raise RefusedError("no apples", "apples")

    with monkeypatch.context() as patch:
        patch.setattr(parts.engine, "prompt_filter", refuse)
        press(page, prompt="an apple again")
    assert ledger == [2, 2, -2, 2]  # a filter's no is the visitor's doing
    monkeypatch.setattr(Sana, "velocity", lambda *_, **__: 1 / 0)
    assert "log has details" in press(page)
    assert ledger == [2, 2, -2, 2, 2, -2]


def test_a_key_gets_back_what_the_page_did_not_draw(
    make_parts: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanakit.serve.web import mount

    parts = make_parts()
    parts.keys.create("ann", per_day=5)
    [key] = parts.keys.list()
    take_back = mount._charge(parts.app.state.service, parts.keys.named("ann"), 5)
    assert parts.keys.used(now().date()) == {key.id: 5}
    take_back()
    assert parts.keys.used(now().date()) == {key.id: 0}


def test_images_on_the_page_are_decoded_in_their_turn(
    charged: tuple[Page, list[int], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, _, parts = charged
    data = encode(Image.new("RGB", (64, 64)), "PNG", {"prompt": "x", "model": "pocket", "steps": 1})
    path = tmp_path / "a.png"
    path.write_bytes(data)
    held, turn = [], parts.engine.decoding.turn
    monkeypatch.setattr(parts.engine.decoding, "turn", lambda pixels: held.append(pixels) or turn(pixels))
    decode = page.editor.image.convert_and_format_image
    assert decode(SimpleNamespace(path=str(path))).size == (64, 64)
    assert decode(io.BytesIO(data).getvalue()).size == (64, 64)
    assert decode(None) is None
    assert held == [4096, 4096, 0]
    monkeypatch.setattr(parts.engine.decoding, "limit", 4095 * PIXEL_BYTES)
    with pytest.raises(gradio.Error, match="too many for this server"):
        decode(SimpleNamespace(path=str(path)))
    with pytest.raises(Exception, match="too many for this server"):
        page.restore_file(str(path), "pocket")
