"""The route of live drawing: a stream of frames, sentences for what is wrong, and the page's login."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

pytest.importorskip("gradio")

from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.web.live import routes
from sanakit.serve.web.mount import add_page, build_page, mount_page

SMALL = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live") / "pictures"


@pytest.fixture(scope="module")
def client(engine: Engine, pictures: Path) -> TestClient:
    """A page that all tests share; each draws in a tab of its own."""
    app = mount_page(FastAPI(), build_page(engine, ImageStore(pictures)))
    return TestClient(app, base_url="http://127.0.0.1")


def events(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.split("\n\n") if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_key_is_answered_by_frames_and_then_the_image(client: TestClient, pictures: Path) -> None:
    own = SMALL | {"tab": "first-tab"}
    found = events(client.post("/live/draw", json=own | {"number": 3}))
    assert [name for name, _ in found] == ["frame", "done"]
    for (_, told), step in zip(found, (1, 2), strict=True):
        assert (told["number"], told["step"], told["total"]) == (3, step, 2)
        assert told["milliseconds"] >= 0
        kind, _, data = told["image"].partition(";base64,")
        assert kind == "data:image/jpeg"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.format == "JPEG"
            assert step == 1 or image.size == (64, 64)
    late = events(client.post("/live/draw", json=own | {"number": 2}))
    assert late == [("newer", {"number": 2})]
    assert not list(pictures.glob("*"))  # nothing is kept by itself


def test_what_is_wrong_has_a_status_and_a_sentence(client: TestClient, monkeypatch: Any) -> None:
    def told(status: int, **fields: Any) -> str:
        answer = client.post("/live/draw", json=SMALL | {"tab": "second-tab", "number": 0} | fields)
        assert answer.status_code == status
        return answer.json()["error"]["message"]

    assert "did you mean 'seed'" in told(400, sead=1)
    assert "is not base64" in told(400, sketch="???")
    assert "there are: pocket" in told(404, number=1, model="another")
    assert "Content-Type" in client.post("/live/draw", content=b"{}").json()["error"]["message"]
    monkeypatch.setattr(routes, "MOST_BODY", 1000)
    assert "1,000 bytes" in told(413, prompt="x" * 1000)


def test_an_error_after_the_first_frame_is_the_last_event(client: TestClient, monkeypatch: Any) -> None:
    whole = routes._spelled

    def spelled(frame: Any, number: int) -> bytes:
        if frame.final:
            raise RuntimeError("the encoder failed")
        return whole(frame, number)

    monkeypatch.setattr(routes, "_spelled", spelled)
    *_, (name, told) = events(client.post("/live/draw", json=SMALL | {"tab": "third-tab", "number": 0}))
    assert name == "error"
    assert "the encoder failed" not in json.dumps(told)
    assert "log" in told["error"]["message"]


def test_the_module_is_served_and_the_page_loads_it(client: TestClient) -> None:
    module = client.get("/live/live.js")
    assert module.headers["content-type"].startswith("text/javascript")
    assert "live/draw" in module.text
    assert "live/live.js" in client.get("/").text


def test_where_there_are_keys_the_login_of_the_page_is_needed_and_images_count(
    make_parts: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir(mode=0o700)
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    asked = SMALL | {"tab": "fourth-tab", "number": 0}
    answer = parts.client.post("/live/draw", json=asked, headers={"Origin": "http://other.example"})
    assert answer.status_code == 403
    secret = parts.keys.create("ada", per_day=1)
    assert parts.client.post("/live/draw", json=asked).status_code == 401
    login = {"username": "ada", "password": secret}
    assert parts.client.post("/login", data=login).status_code == 200
    assert events(parts.client.post("/live/draw", json=asked))[-1][0] == "done"
    refused = parts.client.post("/live/draw", json=asked | {"number": 1})
    assert refused.status_code == 400
    assert "day" in refused.json()["error"]["message"]
