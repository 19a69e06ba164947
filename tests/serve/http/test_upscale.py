"""`upscale` over /v1/images and /v1/jobs: checked before drawing, Lanczos is told, a model redraws."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import BusyError, StorageError
from sanakit.pipelines.upscale import redraw


def image(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_images_come_enlarged_with_their_settings_and_a_note(parts: Any, output_format: str) -> None:
    plain = parts.draw(n=2, seed=7).json()
    answer = parts.draw(n=2, seed=7, upscale=2, output_format=output_format).json()
    assert (answer["size"], len(answer["data"])) == ("128x128", 2)
    for one, small in zip(answer["data"], plain["data"], strict=True):
        assert one["metadata"] == small["metadata"] | {"upscale": 2.0, "upscale_strength": 0.0}
        larger = image(small["b64_json"]).resize((128, 128), Image.Resampling.LANCZOS)
        assert image(one["b64_json"]).size == (128, 128)
        if output_format == "png":
            assert image(one["b64_json"]).tobytes() == larger.tobytes()
    (note,) = (note for note in answer["warnings"] if "Lanczos" in note)
    assert note.startswith("Lanczos enlarged it alone, as pocket did not learn to draw 128x128: ")


def test_a_stream_ends_with_the_enlarged_image(parts: Any) -> None:
    events = parts.events(parts.draw(stream=True, partial_images=1, upscale=1.5))
    (name, last) = events[-1]
    assert name == "image_generation.completed"
    assert (last["size"], image(last["b64_json"]).size) == ("96x96", (96, 96))
    assert last["metadata"]["upscale"] == 1.5


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_learned_the_larger_size_redraws_it(
    parts: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(redraw, "redraws", lambda spec, size: True)
    before = parts.engine.stats()["pictures"]
    answer = parts.draw(upscale=2, seed=7, stream=stream)
    one = parts.events(answer)[-1][1] if stream else answer.json()["data"][0]
    assert image(one["b64_json"]).size == (128, 128)
    assert one["metadata"]["upscale_strength"] == redraw.STRENGTH
    assert parts.engine.stats()["pictures"] == before + 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"upscale": 1}, "upscale"),
        ({"upscale": 8.5}, "upscale"),
        ({"upscale": "2"}, "upscale"),
        ({"upscale": True}, "upscale"),
        ({"upscale": 8, "size": "1024x1024"}, "larger than this server allows"),
    ],
)
def test_what_cannot_be_enlarged_is_refused_before_anything_is_drawn(
    parts: Any, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(parts.engine, "submit", lambda *_, **__: pytest.fail("drawn"))
    for answer in (parts.draw(**body), add(parts, **body)):
        assert answer.status_code == 400
        assert told in answer.json()["error"]["message"]
    assert parts.jobs.counts()["queued"] == 0


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/jobs/edits"])
def test_an_edit_is_enlarged(parts: Any, path: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    form = {"prompt": "a green apple", "steps": "2", "strength": "0.5", "upscale": "2"}
    answer = parts.client.post(path, data=form, files={"image": ("a.png", file.getvalue())})
    if path == "/v1/images/edits":
        made = image(answer.json()["data"][0]["b64_json"])
    else:
        job = settled(parts, answer)
        assert job["data"][0]["metadata"]["upscale"] == 2.0
        made = stored(parts, job["data"][0])
    assert made.size == (128, 128)


def settled(parts: Any, answer: Any) -> dict[str, Any]:
    """Wait for the end of a job that was accepted."""
    assert answer.status_code == 202, answer.text
    address = answer.headers["Location"]
    if not parts.runner.alive:
        parts.runner.start()
    until = time.monotonic() + 60
    while (job := parts.client.get(address).json())["status"] in ("queued", "running"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert job["status"] == "finished", job["error"]
    return job


def stored(parts: Any, one: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(parts.client.get(one["url"]).content))


def add(parts: Any, **body: Any) -> Any:
    asked = {"prompt": "a red apple", "size": "64x64", "steps": 2, "seed": 7, "upscale": 2} | body
    return parts.client.post("/v1/jobs", json=asked)


def test_a_job_enlarges_its_images_as_a_request_at_once_does(parts: Any) -> None:
    at_once = parts.draw(n=2, seed=7, upscale=2).json()
    job = settled(parts, add(parts, n=2))
    assert job["request"]["upscale"] == 2.0
    assert [one["metadata"] for one in job["data"]] == [one["metadata"] for one in at_once["data"]]
    assert job["warnings"] == at_once["warnings"]
    for one, same in zip(job["data"], at_once["data"], strict=True):
        assert stored(parts, one).tobytes() == image(same["b64_json"]).tobytes()


def test_a_job_is_redrawn_by_its_model_also_where_the_engine_and_the_database_were_busy(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redraw, "redraws", lambda spec, size: True)
    at_once = parts.draw(seed=7, upscale=2).json()["data"][0]
    submit, finish, refused = parts.engine.submit, parts.jobs.finish, []

    def busy_at_the_second(request: Any, *others: Any, **options: Any) -> Any:
        if request.size == (128, 128) and "full" not in refused:
            refused.append("full")
            raise BusyError("The queue is full.")
        return submit(request, *others, **options)

    def locked_at_first(*told: Any) -> Any:
        if "locked" not in refused:
            refused.append("locked")
            raise StorageError("The database is locked.")
        return finish(*told)

    monkeypatch.setattr(parts.engine, "submit", busy_at_the_second)
    monkeypatch.setattr(parts.jobs, "finish", locked_at_first)
    before = parts.engine.stats()["pictures"]
    (one,) = settled(parts, add(parts))["data"]
    assert refused == ["full", "locked"]
    assert parts.engine.stats()["pictures"] == before + 2  # drawn once, redrawn once
    assert one["metadata"] == at_once["metadata"]
    assert stored(parts, one).tobytes() == image(at_once["b64_json"]).tobytes()


def test_a_job_with_the_same_key_and_another_factor_is_another_request(parts: Any) -> None:
    asked = {"prompt": "a red apple", "size": "64x64", "steps": 2, "seed": 7}
    headers = {"Idempotency-Key": "one"}

    def again(**body: Any) -> int:
        return parts.client.post("/v1/jobs", json=asked | body, headers=headers).status_code

    assert [again(upscale=2), again(upscale=2), again(upscale=3), again()] == [202, 202, 409, 409]
