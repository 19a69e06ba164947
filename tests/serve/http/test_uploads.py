"""Edits over HTTP: masks by OpenAI's rule, and uploads that are wrong, damaged or hostile."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image


def picture(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def file_of(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


GREY = Image.new("RGB", (96, 64), "grey")


def edit(
    parts: Any, image: bytes, mask: bytes | None = None, path: str = "/v1/images/edits", **fields: Any
) -> Any:
    files = {"image": ("image.png", image)} | ({"mask": ("mask.png", mask)} if mask is not None else {})
    return parts.client.post(
        path, files=files, data={"prompt": "a red apple", "steps": "2", "seed": "1"} | fields
    )


def test_an_edit_without_a_mask_redraws_the_picture_in_its_own_size(parts: Any) -> None:
    reply = edit(parts, file_of(GREY), strength="0.5", n="2").json()
    assert [picture(one["b64_json"]).size for one in reply["data"]] == [(96, 64)] * 2
    assert reply["data"][0]["metadata"]["strength"] == 0.5
    assert reply["usage"]["input_tokens"] > 0


def mask_of(white: bool) -> Image.Image:
    """The left half is to be repainted: white, or transparent."""
    if white:
        mask = Image.new("L", (96, 64), 0)
        mask.paste(255, (0, 0, 48, 64))
        return mask
    mask = Image.new("RGBA", (96, 64), (255, 255, 255, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 48, 64))
    return mask


@pytest.mark.parametrize("kind", ["transparent", "white", "own alpha", "palette"])
def test_what_the_mask_keeps_stays_as_it_is(parts: Any, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    image, mask = noise, None
    if kind == "own alpha":
        image = noise.copy()
        image.putalpha(mask_of(False).getchannel("A"))
    elif kind == "palette":
        mask = file_of(mask_of(True).convert("P"))
    else:
        mask = file_of(mask_of(kind == "white"))
    reply = edit(parts, file_of(image), mask).json()
    drawn = np.asarray(picture(reply["data"][0]["b64_json"]))
    assert (drawn[:, 48:] == np.asarray(noise)[:, 48:]).all()
    assert (drawn[:, :48] != np.asarray(noise)[:, :48]).mean() > 0.5


def test_a_photograph_is_turned_as_its_camera_says(parts: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    reply = edit(parts, file_of(GREY, "JPEG", exif=exif)).json()
    assert picture(reply["data"][0]["b64_json"]).size == (64, 96)


def test_an_edit_streams_under_its_own_name(parts: Any) -> None:
    kinds = [
        kind
        for kind, _ in parts.events(edit(parts, file_of(GREY), stream="true", partial_images="1", steps="4"))
    ]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]


def bomb() -> bytes:
    """A PNG of 65,000 x 65,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "upload",
    [
        b"",
        b"no picture",
        file_of(GREY)[:-40],
        file_of(GREY, "JPEG")[:200],
        file_of(GREY, "GIF"),
        file_of(GREY, "BMP"),
        file_of(GREY, "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bomb(),
        file_of(Image.new("L", (9000, 9000))),
        file_of(Image.new("L", (2000, 2))),
    ],
    ids=[
        "empty",
        "text",
        "cut PNG",
        "cut JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "EPS",
        "SVG",
        "bomb",
        "too large",
        "a line",
    ],
)
def test_uploads_that_can_not_be_used_are_400_in_either_place(parts: Any, upload: bytes) -> None:
    for answer in (edit(parts, upload), edit(parts, file_of(GREY), upload)):
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_mask_of_another_size_or_that_keeps_all_is_400(parts: Any) -> None:
    for mask in (Image.new("L", (64, 64), 255), Image.new("L", (96, 64), 0)):
        assert edit(parts, file_of(GREY), file_of(mask)).status_code == 400


def test_forms_that_are_no_edits_are_400(parts: Any) -> None:
    post, file = parts.client.post, ("../../etc/passwd", file_of(GREY))
    address, words = "/v1/images/edits", {"prompt": "x"}
    answers = [
        post(address, data=words),
        post(address, json=words),
        post(address, content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"}),
        post(address, content=b"", headers={"Content-Type": "multipart/form-data"}),
        post(address, files={"image": file}),
        post(address, files=[("image", file), ("image[]", file)], data=words),
        post(address, files={"image": file, "markup": file}, data=words),
        post(address, files={"image": file, "prompt": file}),
        post(address, files={"mask": file}, data=words | {"image": "text"}),
        post(address, files={"image": file}, data=words | {"strength": "nan"}),
        post(address, files={"image": file}, data=words | {"n": "many"}),
        post(address, files={"image": file}, data=words | {"unknown": "x"}),
        post(address, files={"image": file}, data=words | {f"f{n}": "x" for n in range(100)}),
    ]
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert post(address, files={"image": file}, data=words | {"steps": "1"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "kind", "begun"),
    [
        (
            "/v1/images/edits",
            b"multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n\x89PNG',
        ),
        ("/v1/images/generations", b"application/json", b'{"prompt": "a'),
    ],
)
def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_mistake_of_ours(
    parts: Any, caplog: pytest.LogCaptureFixture, path: str, kind: bytes, begun: bytes
) -> None:
    caplog.set_level("INFO", "sanakit")
    messages = [{"type": "http.request", "body": begun, "more_body": True}, {"type": "http.disconnect"}]
    answered: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", kind)]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "raw_path": b""}
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    scope["headers"] = headers
    asyncio.run(parts.app(scope | {"asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send))
    assert not any(message.get("status", 0) >= 500 for message in answered)  # nobody hears it anyhow
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert " 499 " in caplog.text
    assert "sana_disconnected_total 1.0" in parts.client.get("/metrics").text
