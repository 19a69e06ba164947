"""Streams, and clients that leave before their image is done."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.ticket import Stepped

Make = Callable[..., Any]


def picture(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_stream_shows_each_picture_on_its_way_and_then_gives_it(parts: Any) -> None:
    events = parts.events(parts.draw(stream=True, partial_images=3, n=2, steps=8, seed=5))
    kinds = [kind for kind, _ in events]
    assert kinds == ["image_generation.partial_image"] * 6 + ["image_generation.completed"] * 2
    for number in (0, 1):
        own = [data for kind, data in events[:6] if data["picture"] == number]
        assert [data["partial_image_index"] for data in own] == [0, 1, 2]
    assert [data["metadata"]["seed"] for _, data in events[6:]] == [5, 6]
    assert picture(events[6][1]["b64_json"]).size == (64, 64)
    plain = parts.draw(steps=8, seed=5).json()["data"][0]["b64_json"]
    difference = np.asarray(picture(plain), int) - np.asarray(picture(events[6][1]["b64_json"]), int)
    assert abs(difference).max() <= 2


@pytest.mark.parametrize(("steps", "asked", "shown"), [(1, 3, 0), (2, 3, 1), (3, 3, 2), (8, 1, 1), (8, 0, 0)])
def test_there_are_no_more_partial_images_than_steps_before_the_last(
    parts: Any, steps: int, asked: int, shown: int
) -> None:
    events = parts.events(parts.draw(stream=True, partial_images=asked, steps=steps))
    assert len(events) == shown + 1


def test_no_preview_leaves_a_server_whose_filter_can_not_look_at_it(make_parts: Make) -> None:
    parts = make_parts(previews=False)
    events = parts.events(parts.draw(stream=True, partial_images=3, steps=8))
    assert [kind for kind, _ in events] == ["image_generation.completed"]


class LeavingClient:
    """An ASGI client that sends a body and hangs up when it is told to."""

    def __init__(self, app: Any, body: dict[str, Any]) -> None:
        self._app, self._body = app, json.dumps(body).encode()
        self._sent = False
        self.hang_up = threading.Event()
        self.answered: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        while not self.hang_up.is_set():
            await asyncio.sleep(0.002)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.answered.append(message)

    def call(self) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/images/generations", "raw_path": b""}
        scope |= {
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
        }
        scope |= {"headers": headers, "asgi": {"version": "3.0", "spec_version": "2.3"}}
        asyncio.run(self._app(scope, self.receive, self.send))


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_client_leaves_the_engine_stops_within_a_step(
    parts: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    body = {"prompt": "x", "size": "64x64", "steps": 200, "stream": stream}
    client = LeavingClient(parts.app, body)
    steps: list[int] = []
    cancelled: list[int] = []
    tickets: list[Any] = []
    submit = Engine.submit

    def watched(self: Engine, request: Any, on_event: Any, **options: Any) -> Any:
        def watch(event: Any) -> None:
            if isinstance(event, Stepped):
                steps.append(event.index)
                if event.index == 3:
                    client.hang_up.set()
            on_event(event)

        ticket = submit(self, request, watch, **options)
        cancel = ticket.cancel

        def noted() -> None:
            cancelled.append(len(steps))
            cancel()

        ticket.cancel = noted
        tickets.append(ticket)
        return ticket

    monkeypatch.setattr(Engine, "submit", watched)
    client.call()
    with pytest.raises(Exception, match="cancelled"):
        tickets[0].result(timeout=10)
    assert len(steps) - cancelled[0] <= 1
    assert len(steps) < 150
    figures = parts.client.get("/metrics").text
    assert "sana_disconnected_total 1.0" in figures
    status = 200 if stream else 499  # a stream's status was sent before
    answered = 'sana_http_requests_total{method="POST",route="/v1/images/generations",status="%d"} 1.0'
    assert answered % status in figures
    assert parts.draw().status_code == 200
