"""Forms as browsers and curl send them, bodies of the wrong type, and what each refusal names."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import SizeError
from sanakit.serve.engine.decoding import AT_ONCE, PIXEL_BYTES
from sanakit.serve.http import uploads
from sanakit.serve.http.door import MOST_JSON


def png(side: int = 64, colour: str = "grey") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def form(*parts: tuple[str, str | None, bytes]) -> dict[str, Any]:
    """A form of (name, file name or None, content), byte by byte as a browser writes it."""
    body = b""
    for name, file, content in parts:
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if file is not None:
            body += f'; filename="{file}"\r\nContent-Type: application/octet-stream'.encode()
        body += b"\r\n\r\n" + content + b"\r\n"
    return {"content": body + b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


IMAGE, WORDS, STEPS = ("image", "a.png", png()), ("prompt", None, b"a red apple"), ("steps", None, b"1")


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/jobs/edits"])
def test_what_a_browser_leaves_empty_counts_as_left_out(parts: Any, path: str) -> None:
    empty = [
        (name, None, b"") for name in ("negative_prompt", "seed", "size", "n", "strength", "model", "user")
    ]
    answer = parts.client.post(path, **form(IMAGE, ("mask", "", b""), WORDS, STEPS, *empty))
    assert answer.status_code in (200, 202), answer.text


def test_a_form_without_its_image_says_so_also_where_the_field_was_left_empty(parts: Any) -> None:
    for sent in ([WORDS], [("image", "", b""), WORDS]):
        answer = parts.client.post("/v1/images/edits", **form(*sent))
        assert (answer.status_code, "no file named image" in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("mask[]", "m.png", png()), "'mask[]': did you mean 'mask'"),
        (("image[0]", "m.png", png()), "'image[0]': did you mean 'image"),
        (("markup", "m.png", png()), "'markup'"),
        (("markup", None, b"x"), "'markup'"),
        (("seed", None, b"x"), "seed"),
        (("mask", None, b"text"), "'mask' came as text"),
        (("seed", "s.txt", b"7"), "'seed' came as a file"),
        (("mask", "m.png", b""), "'mask' is empty"),
        (("prompt", None, b"again"), "'prompt' was sent twice"),
        (
            ("image[]", "a.png", png()),
            "More than one image came, and an edit takes one: send a single image.",
        ),
        (("image", None, b"text"), "'image' was sent twice"),
    ],
)
def test_a_field_that_is_wrong_is_named(parts: Any, wrong: tuple[str, str | None, bytes], told: str) -> None:
    answer = parts.client.post("/v1/images/edits", **form(IMAGE, WORDS, STEPS, wrong))
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/jobs"])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "", None])
def test_json_sent_as_something_else_says_which_header_is_missing(
    parts: Any, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = parts.client.post(path, content=b'{"prompt": "a red apple"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"prompt": "\xff"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seed": ' + b"1" * 5000 + b"}",
        b"null",
        b'"x"',
        b"[]",
    ],
    ids=["cut", "Latin-1", "a mark", "deep", "digits", "null", "text", "list"],
)
def test_a_body_that_is_no_json_object_is_invalid_json(parts: Any, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = parts.client.post("/v1/images/generations", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert "pydantic" not in answer.text.lower()
    assert "Input should" not in answer.text


def test_an_empty_body_is_told_what_to_send(parts: Any) -> None:
    answer = parts.client.post("/v1/images/generations", headers={"Content-Type": "application/json"})
    assert answer.json()["error"]["code"] == "missing_required_parameter"
    assert '{"prompt": "a red apple"}' in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "sent",
    [
        {"content": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        form(*[(f"f{n}", None, b"x") for n in range(100)]),
        form(IMAGE, ("prompt", None, b"x" * (MOST_JSON + 1))),
    ],
    ids=["cut", "no boundary", "fields", "long"],
)
def test_a_form_that_cannot_be_taken_apart_is_an_invalid_form(parts: Any, sent: dict[str, Any]) -> None:
    answer = parts.client.post("/v1/images/edits", **sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_form")


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/jobs/edits"])
def test_an_upload_larger_than_the_memory_or_the_largest_image_is_refused_by_its_header(
    parts: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "open_image", lambda *_: pytest.fail("it is decoded"))
    answer = parts.client.post(path, **form(("image", "a.png", png(4104)), WORDS, STEPS))
    assert (answer.status_code, "4096 px" in answer.text) == (400, True)
    monkeypatch.setattr(parts.engine.decoding, "limit", 10_000 * PIXEL_BYTES)
    answer = parts.client.post(path, **form(("image", "a.png", png(128)), WORDS, STEPS))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_size")
    assert "0.0 million together" in answer.json()["error"]["message"]
    monkeypatch.undo()
    answer = parts.client.post(path, **form(("image", "a.png", png(128)), ("mask", "m.png", png(64)), WORDS))
    assert "The mask is 64x64, the image 128x128" in answer.json()["error"]["message"]


def test_every_upload_takes_its_turn_for_as_long_as_it_is_decoded(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, whole = [], uploads.open_images

    def watched(*files: Any) -> Any:
        held.append(parts.engine.decoding._held)
        return whole(*files)

    monkeypatch.setattr(uploads, "open_images", watched)
    assert parts.client.post("/v1/images/edits", **form(IMAGE, WORDS, STEPS)).status_code == 200
    assert held == [64 * 64 * PIXEL_BYTES]
    assert parts.engine.decoding._held == 0
    assert held[0] < AT_ONCE


def test_a_job_whose_input_no_longer_fits_in_the_memory_fails_with_a_sentence(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = parts.client.post("/v1/jobs/edits", **form(IMAGE, WORDS, STEPS)).json()
    monkeypatch.setattr(parts.engine.decoding, "limit", 1)
    claimed = parts.jobs.claim("test", 60)
    with pytest.raises(SizeError):
        parts.runner._request(claimed)
    assert claimed.id == job["id"]
