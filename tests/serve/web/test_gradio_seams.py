"""Gradio still is what the page takes it for beyond Gradio's own promises: each seam is walked through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

gr = pytest.importorskip("gradio")

from sanakit.serve.web.gradio_seams import Blocks, NoFetching, lock_of  # noqa: E402


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
