"""Adapters by HTTP: chosen in a request, a form or a job; listed with the models."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image

from sanakit.adapters.describe import known_models
from sanakit.adapters.save import save_adapter
from sanakit.pipelines.upscale import redraw
from sanakit.serve.engine.engine import Engine
from tests.adapters.loras import lora

WORDS = {"seed": 1, "response_format": "b64_json"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The embedded model with one adapter."""
    config = known_models()["pocket"]
    path = tmp_path_factory.mktemp("loras") / "ink.safetensors"
    save_adapter(path, lora(config=config, spread=0.05), config)
    running = Engine(["pocket"], device="cpu", threads=1, adapters={"ink": str(path)})
    running.start()
    yield running
    running.close()


def picture(answer: Any) -> tuple[str, list[dict[str, Any]]]:
    """The image of an answer, and the adapters in its settings."""
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["data"]
    return one["b64_json"], json.loads(one["metadata"].get("adapters", "[]"))


def upload() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def test_a_request_chooses_among_the_servers_adapters(parts: Any) -> None:
    plain, none = picture(parts.draw(**WORDS))
    inked, used = picture(parts.draw(**WORDS, adapters={"ink": 0.5}))
    again, _ = picture(parts.draw(**WORDS))
    assert none == []
    assert [(one["name"], one["file"], one["weight"]) for one in used] == [("ink", "ink.safetensors", 0.5)]
    assert plain == again != inked
    assert picture(parts.draw(**WORDS, adapters={"ink": 0}))[0] == plain
    assert picture(parts.draw(**WORDS, adapters={}))[0] == plain
    assert picture(parts.draw(**WORDS, adapters=None))[0] == plain


def test_an_image_is_enlarged_with_the_adapters_it_was_drawn_with(parts: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(redraw, "redraws", lambda spec, size: True)
    asked, submit = [], parts.engine.submit

    def watched(request: Any, *others: Any, **more: Any) -> Any:
        asked.append(request.metadata[0].get("adapters", ""))
        return submit(request, *others, **more)

    monkeypatch.setattr(parts.engine, "submit", watched)
    _, used = picture(parts.draw(**WORDS, adapters={"ink": 0.5}, upscale=2))
    assert [json.loads(one) for one in asked] == [used, used]
    assert used[0]["name"] == "ink"


@pytest.mark.parametrize(
    ("adapters", "said"),
    [
        ({"pen": 1}, "pocket has no adapter 'pen'; there are: ink"),
        ({"ink": 1000}, "must be a number from -100 to 100"),
        ({"ink": "much"}, "number"),
        ({"ink": True}, "number"),
        ({"ink": None}, "number"),
        ("ink", "adapters"),
        ([1], "adapters"),
        ({str(n): 1 for n in range(17)}, "adapters"),
        ({"i" * 300: 1}, "adapters"),
    ],
)
def test_wrong_adapters_are_refused(parts: Any, adapters: Any, said: str) -> None:
    answer = parts.draw(**WORDS, adapters=adapters)
    assert answer.status_code == 400
    assert said in json.dumps(answer.json()["error"])


def test_models_list_the_adapters_that_fit_them(parts: Any) -> None:
    assert [model["adapters"] for model in parts.client.get("/v1/models").json()["data"]] == [["ink"]]


def test_openais_client_sends_them_in_both_forms(parts: Any) -> None:
    client = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=parts.client)
    words = {"seed": 1, "steps": 2, "adapters": {"ink": 0.5}}
    made = client.images.generate(prompt="a red apple", size="64x64", extra_body=words)
    edited = client.images.edit(image=upload(), prompt="an apple", size="64x64", extra_body=words)
    for reply in (made, edited):
        assert reply.data
        used = json.loads(reply.data[0].metadata["adapters"])  # pyright: ignore[reportAttributeAccessIssue]
        assert [(one["name"], one["weight"]) for one in used] == [("ink", 0.5)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"adapters[pen]": "1"}, "no adapter 'pen'"),
        ({"adapters[ink]": "much"}, "number"),
        ({"adapters[ink]": "nan"}, "finite"),
        ({"adapters[]": "1"}, "adapters"),
        ({"adapters": "ink"}, "adapters"),
        ({"adapters": "ink", "adapters[ink]": "1"}, "adapters"),
        ({"adapters[ink]": ["1", "2"]}, "adapters"),
    ],
)
def test_wrong_adapters_in_a_form_are_refused(parts: Any, fields: dict[str, Any], said: str) -> None:
    files = {"image": ("a.png", upload())}
    answer = parts.client.post("/v1/images/edits", data={"prompt": "x", **fields}, files=files)
    assert answer.status_code == 400, answer.text
    assert said in json.dumps(answer.json()["error"])


def test_a_job_keeps_its_adapters(parts: Any) -> None:
    parts.runner.start()
    body = {"prompt": "a red apple", "size": "64x64", "steps": 2, "seed": 1, "adapters": {"ink": 0.5}}
    job = parts.client.post("/v1/jobs", json=body).json()
    assert job["request"]["adapters"] == {"ink": 0.5}
    end = time.monotonic() + 60
    while job["status"] not in ("finished", "failed") and time.monotonic() < end:
        time.sleep(0.05)
        job = parts.client.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "finished", job
    assert '"weight": 0.5' in job["data"][0]["metadata"]["adapters"]
    key = {"Idempotency-Key": "k"}
    first = parts.client.post("/v1/jobs", json=body, headers=key)
    assert parts.client.post("/v1/jobs", json=body, headers=key).json()["id"] == first.json()["id"]
    other = parts.client.post("/v1/jobs", json=body | {"adapters": {"ink": 0.6}}, headers=key)
    assert other.status_code == 409
