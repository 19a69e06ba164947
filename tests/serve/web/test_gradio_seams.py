"""Gradio still is what the page takes it for beyond Gradio's own promises: each seam is walked through."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

gr = pytest.importorskip("gradio")

from sanakit.serve.web.gradio_seams import Blocks, NoFetching, end_streams, lock_of  # noqa: E402


def blocks() -> Blocks:
    with Blocks(analytics_enabled=False) as made:
        words = gr.Textbox()
        words.change(lambda text: text, words, words)
    return made


def test_gradio_hands_the_inputs_of_an_event_to_our_method_and_takes_back_what_it_gives() -> None:
    page = blocks()
    [function] = page.fns.values()
    assert asyncio.run(page.preprocess_data(function, ["a fox"], None)) == ["a fox"]
    far: Any = [{"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}]
    with pytest.raises(gr.Error, match="upload the file"):
        asyncio.run(page.preprocess_data(function, far, None))


def test_an_event_that_comes_by_http_goes_through_our_method(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, whole = [], Blocks.preprocess_data

    async def watched(self: Blocks, block_fn: Any, inputs: list[Any], *others: Any) -> list[Any]:
        seen.append(inputs)
        return await whole(self, block_fn, inputs, *others)

    monkeypatch.setattr(Blocks, "preprocess_data", watched)
    client = TestClient(gr.mount_gradio_app(FastAPI(), blocks(), "/", ssr_mode=False))
    asked = {"data": ["a fox"], "fn_index": 0, "session_hash": "one"}
    answer = client.post("/gradio_api/run/predict", json=asked)
    assert (answer.status_code, answer.json()["data"], seen) == (200, ["a fox"], [["a fox"]])


def test_a_slider_whose_ends_an_event_moved_takes_what_lies_between_them() -> None:
    with Blocks(analytics_enabled=False) as made:
        steps = gr.Slider(1, 100, 20, label="Steps")
        words, further = gr.Textbox(), gr.Button()
        further.click(lambda: gr.update(value=150, maximum=150), None, steps)
        words.change(lambda count: str(count), steps, words)
    client = TestClient(gr.mount_gradio_app(FastAPI(), made, "/", ssr_mode=False))

    def ask(number: int, data: list[Any], session: str = "one") -> Any:
        asked = {"data": data, "fn_index": number, "session_hash": session}
        return client.post("/gradio_api/run/predict", json=asked).json()

    assert "from 1 to 100" in ask(1, [150])["error"]
    ask(0, [])
    assert ask(1, [150])["data"] == ["150"]
    assert "from 1 to 150" in ask(1, [151])["error"]
    assert "from 1 to 100" in ask(1, [150], "two")["error"], "another visitor's slider stays"


def test_a_mounted_page_is_found_and_locked_while_it_runs() -> None:
    app = gr.mount_gradio_app(FastAPI(), blocks(), "/", ssr_mode=False)
    client, lock = TestClient(app), lock_of(app)
    assert lock.is_open
    assert client.get("/config").status_code == 200
    lock.close(lambda name, password: (name, password) == ("ann", "secret"))
    assert not lock.is_open
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
    assert client.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
    assert client.get("/config").status_code == 200


@pytest.mark.parametrize(
    "path", ["/gradio_api/proxy=https://example.com/x", "/gradio_api/file=https://x.example"]
)
def test_routes_that_fetch_for_whoever_asks_are_refused(path: str) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        pytest.fail("it was handed on")

    assert TestClient(NoFetching(never)).get(path).status_code == 403


def test_the_routes_that_are_refused_are_the_ones_that_gradio_has() -> None:
    app = gr.mount_gradio_app(FastAPI(), blocks(), "/", ssr_mode=False)
    [page] = [route.app for route in app.routes if hasattr(getattr(route, "app", None), "auth")]
    paths = list(page.openapi()["paths"])
    assert [path for path in paths if path.startswith("/gradio_api/proxy=")]
    assert [path for path in paths if path.startswith("/gradio_api/file=")]


def test_the_open_streams_of_a_page_end_when_the_server_stops() -> None:
    over = threading.Event()
    app = gr.mount_gradio_app(FastAPI(), blocks(), "/", ssr_mode=False)
    end_streams(app, over)
    [page] = [route.app for route in app.routes if hasattr(getattr(route, "app", None), "auth")]

    async def wait() -> None:
        waiting = asyncio.create_task(page.stop_event.wait())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        over.set()
        assert await asyncio.wait_for(waiting, 10)

    asyncio.run(wait())


def test_what_an_event_cannot_be_is_refused_without_a_traceback_of_gradios(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with Blocks(analytics_enabled=False) as page:
        number, choice = gr.Number(label="Margin", minimum=0, maximum=8), gr.Radio(["a", "b"], label="Kind")
        choice.change(lambda *values: None, [number, choice], [], queue=False)
        choice.select(lambda: 1 / 0, [], [], queue=False)
    client = TestClient(gr.mount_gradio_app(FastAPI(), page, "/", ssr_mode=False, show_error=True))

    def told(data: Any, function: int = 0) -> str:
        asked = {"data": data, "fn_index": function, "session_hash": "one"}
        answer = client.post("/gradio_api/run/predict", json=asked)
        assert answer.status_code == 500
        return answer.json()["error"]

    assert told([9, "a"]) == told([float("1e300"), "a"]) == "Margin: use a number from 0 to 8."
    assert "not in the list of choices" in told([1, "c"])
    for junk in ([1, None], [1], [], [1, {}], [[], "a"]):
        assert told(junk)
    assert "reload the page" in told([], 1)
    assert "Traceback" not in "".join(capsys.readouterr())
    assert all(record.exc_info is None for record in caplog.records)
