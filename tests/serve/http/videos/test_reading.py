"""What is asked for in JSON and in forms, in OpenAI's, vLLM-Omni's and our own words; and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.http.videos import reading
from tests.serve.http.videos.asking import add

SAME = ("frames", "width", "height", "steps", "guidance", "seed", "motion", "rate", "prompt_weights")


def url_of(photo: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(photo).decode()}"


def test_every_way_to_ask_is_the_same_request(parts: Any, photo: bytes) -> None:
    ours = {"prompt": "a (red:2) apple", "frames": 9, "size": "64x96", "steps": 2, "guidance": 2.5, "seed": 3}
    ours |= {"motion": 5, "fps": 8, "prompt_weights": True}
    theirs = {"num_frames": 9, "width": 64, "height": 96, "num_inference_steps": 2, "guidance_scale": 2.5}
    theirs |= {name: ours[name] for name in ("prompt", "seed", "motion", "fps", "prompt_weights")}
    form = {name: str(value).lower() for name, value in theirs.items()}
    client = parts.client
    answers = [
        client.post("/v1/videos", json=ours | {"input_reference": {"image_url": url_of(photo)}}),
        client.post("/v1/videos", data=form, files={"input_reference": ("a.png", photo)}),
        client.post(
            "/v1/videos", files={"": ("", b"")}, data=form | {"input_reference[image_url]": url_of(photo)}
        ),
        client.post("/v1/videos", json=theirs),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    requests = [answer.json()["request"] for answer in answers]
    kept = [{name: request[name] for name in SAME} for request in requests]
    assert kept == [{**kept[0]}] * 4
    assert kept[0] == {
        **{"frames": 9, "width": 64, "height": 96, "steps": 2, "guidance": 2.5, "seed": 3, "motion": 5},
        **{"rate": "8", "prompt_weights": True},
    }
    names = [request.get("image", "-none").partition("-")[2] for request in requests]
    assert len({*names[:3]}) == 1, "the same image has the same name"
    assert names[0].startswith("image-")
    assert names[3] == "none"


@pytest.mark.parametrize(("seconds", "frames", "told"), [("0.5", 9, False), (0.27, 5, True), (1, 17, False)])
def test_seconds_become_frames_and_another_number_is_told(
    parts: Any, seconds: Any, frames: int, told: bool
) -> None:
    video = add(parts, frames=None, seconds=seconds).json()
    assert (video["frames"], video["seconds"]) == (frames, f"{(frames - 1) / 16:g}")
    assert [f"{frames} frames are taken" in note for note in video["warnings"]] == [True] * told


def test_an_image_of_another_shape_is_cut_and_that_is_told(parts: Any, photo: bytes) -> None:
    body = {"prompt": "x", "size": "64x64"}
    video = parts.client.post("/v1/videos", data=body, files={"input_reference": ("a", photo)}).json()
    assert any("96x64 px is cut to the shape of 64x64 px" in note for note in video["warnings"])
    shaped = parts.client.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": ("a", photo)})
    assert (shaped.json()["size"], shaped.json()["warnings"]) == ("96x64", [])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"frames": 8}, "use 5 or 9 frames"),
        ({"frames": 5, "seconds": "4"}, "frames and seconds cannot be combined"),
        ({"frames": 5, "num_frames": 5}, "frames and num_frames are the same"),
        ({"steps": 1, "num_inference_steps": 1}, "steps and num_inference_steps are the same"),
        ({"guidance": 2, "guidance_scale": 2}, "guidance and guidance_scale are the same"),
        ({"size": "64x64", "width": 64}, "size and width or height cannot be combined"),
        ({"size": "65x64"}, "multiples of 16"),
        ({"size": "64"}, "write WIDTHxHEIGHT"),
        ({"seconds": "soon", "frames": None}, "write a number of seconds"),
        ({"seconds": True, "frames": None}, "seconds"),
        ({"steps": 201}, "at most 200"),
        ({"motion": 101}, "motion"),
        ({"prompt": None}, "prompt: Field required"),
        ({"prompt": "nul \0"}, "NUL"),
        ({"solver": "scm"}, "solver"),
        ({"guidance_kind": "pag=2"}, "pag"),
        ({"strength": 0.5}, "strength is of redrawing a clip"),
        ({"n": 2}, "one by one"),
        ({"framse": 5}, "did you mean 'frames'"),
        ({"input_reference": {"image_url": "https://x.org/a.png"}}, "no address is fetched"),
        ({"input_reference": {"image_url": "data:image/png;base64,?"}}, "not base64"),
        ({"input_reference": {"image_url": "data:image/png;base64,AAAA"}}, "The image of input_reference"),
        ({"input_reference": {"file_id": "file_1"}}, "names a file of another server"),
        ({"input_reference": "a.png"}, "input_reference"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(parts: Any, body: dict[str, Any], words: str) -> None:
    answer = add(parts, **body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True), answer.json()
    assert parts.jobs.counts()["queued"] == 0
    assert parts.store.names() == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"frames": 8}, "frames"),
        ({"fps": 0.012345678}, "fps"),
        ({"size": "65x64"}, "size"),
        ({"steps": 201}, "steps"),
        ({"motion": 101}, "motion"),
        ({"frames": 5, "seconds": "4"}, None),
    ],
    ids=str,
)
def test_the_field_that_is_wrong_is_told_by_its_own_name(
    parts: Any, body: dict[str, Any], field: Any
) -> None:
    assert add(parts, **body).json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("data", "files", "words"),
    [
        ({"prompt": "x", "input_reference": "a.png"}, {"": ("", b"")}, "came as text"),
        ({"prompt": "x"}, {"input_reference": ("a.png", b"")}, "is empty"),
        ({"prompt": "x"}, {"input_reference": ("a.mp4", b"no image")}, "The image of input_reference"),
        ({"prompt": "x"}, {"image": ("a.png", b"no image")}, "'image' came as a file"),
        ({"prompt": ["x", "y"]}, {"": ("", b"")}, "sent twice"),
        ({"prompt": "x", "steps": "many"}, {"": ("", b"")}, "steps"),
        ({"prompt": "x", "size": "", "seed": "", "strength": "0.5"}, {"": ("", b"")}, "strength is of"),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_form_is_named(parts: Any, data: Any, files: Any, words: str) -> None:
    answer = parts.client.post("/v1/videos", data=data, files=files)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True), answer.json()


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"{", "application/json", "not valid JSON"),
        (b"[" * 100_000, "application/json", "not valid JSON"),
        (b"[]", "application/json", "must be a JSON object"),
        (b"prompt=x", "application/x-www-form-urlencoded", "send application/json or multipart/form-data"),
        (b"", "", "send application/json or multipart/form-data"),
        (b"--x", "multipart/form-data; boundary=y", "cannot be read"),
    ],
)
def test_a_body_that_cannot_be_read_is_told(parts: Any, content: bytes, kind: str, words: str) -> None:
    answer = parts.client.post("/v1/videos", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True), answer.json()


def test_limits_of_the_server_hold(
    make_parts: Callable[..., Any], clip_engine: ClipEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make_parts(clips=clip_engine, max_frames=5, max_side=96)
    assert add(parts).status_code == 200
    assert "at most 5" in add(parts, frames=9).json()["error"]["message"]
    assert "at most 96 px" in add(parts, size="112x64").json()["error"]["message"]
    monkeypatch.setattr(reading, "MOST_BYTES", 3 * 64 * 64 * 4)
    assert "at most 4 frames, or for a smaller size" in add(parts).json()["error"]["message"]


def test_models_are_told_apart(parts: Any, make_parts: Callable[..., Any]) -> None:
    assert add(parts, model="tiny-video").status_code == 200
    for model, words in (("pocket", "pocket makes images"), ("sora-2", "there are: tiny-video")):
        answer = add(parts, model=model)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (404, True)
    assert {model["id"]: model["makes"] for model in parts.client.get("/v1/models").json()["data"]} == {
        **{"pocket": "images", "tiny-video": "videos"}
    }
    answer = parts.client.post("/v1/images/generations", json={"prompt": "x", "model": "tiny-video"})
    assert answer.status_code == 404


def test_without_a_video_model_that_is_told(make_parts: Callable[..., Any]) -> None:
    parts = make_parts()
    answer = add(parts)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "This server has no video model" in answer.json()["error"]["message"]
    assert parts.client.get("/v1/videos").json()["data"] == []
