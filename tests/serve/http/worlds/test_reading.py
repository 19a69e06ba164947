"""Requests for walks that are refused in a sentence, before a model is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.http.worlds.asking import FORM, png, post


@pytest.mark.parametrize(
    ("form", "status", "sentence"),
    [
        ({"fov": "200"}, 400, "angle of view must be from 25 to 120"),
        ({"fov": "wide"}, 400, "fov: "),
        ({"intrinsics": "1,2"}, 400, "cannot be combined"),
        ({"fov": None, "intrinsics": "a,b,c,d"}, 400, "four numbers, fx,fy,cx,cy"),
        ({"fov": None, "intrinsics": "1,2"}, 400, "pass fx, fy, cx, cy"),
        ({"size": "100x64"}, 400, "100"),
        ({"size": "8192x64"}, 400, "larger than this server allows"),
        ({"steps": "400"}, 400, "this server allows at most 200"),
        ({"model": "pocket"}, 404, "pocket is not the world model of this server: it is tiny-world"),
        ({"frames": "gif"}, 400, "frames: "),
        ({"keys": "wasd"}, 400, "keys: "),
        ({"guidence": "3"}, 400, "did you mean 'guidance'"),
        ({"prompt": ["a", "b"]}, 400, "'prompt' was sent twice"),
        ({"image": "a.png"}, 400, "image came as text"),
    ],
)
def test_a_wrong_field_is_told(parts: Any, form: dict[str, Any], status: int, sentence: str) -> None:
    answer = post(parts, **form)
    assert (answer.status_code, sentence in answer.json()["error"]["message"]) == (status, True), answer.text
    assert parts.worlds.stats()["walks"] == 0


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([("image", ("a.png", b""))], "file of 'image' is empty"),
        ([("image", ("a.png", b"GIF89a"))], "The image"),
        ([("mask", ("a.png", b"x"))], "'mask' came as a file"),
        ([("image", ("a.png", png())), ("image", ("b.png", png()))], "More than one image"),
        ([("negative_prompt", (None, ""))], "no file named image"),
    ],
)
def test_a_wrong_file_is_told(parts: Any, files: list[Any], sentence: str) -> None:
    answer = parts.client.post("/v1/worlds", data=FORM, files=files)
    assert (answer.status_code, sentence in answer.json()["error"]["message"]) == (400, True), answer.text


def test_a_body_that_is_not_a_form_is_told(parts: Any) -> None:
    answer = parts.client.post("/v1/worlds", json={"prompt": "a red apple"})
    assert answer.status_code == 400
    assert "send multipart/form-data with the file image" in answer.json()["error"]["message"]
    assert parts.client.post("/v1/worlds", headers={"Origin": "http://elsewhere"}).status_code == 403


def test_fields_that_a_browser_leaves_empty_are_not_there(parts: Any) -> None:
    answer = post(parts, fov="", seed="", model="", size="")
    assert answer.status_code == 201
    assert any("60 degrees are taken" in note for note in answer.json()["warnings"])
