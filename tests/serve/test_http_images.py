"""Drawing over HTTP: generations, edits, streams; uploads that are hostile; clients that leave."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import BusyError, MemoryLimitError, NumericsError, RefusedError
from sanakit.pipelines.images import read_metadata
from sanakit.serve.engine import Engine
from sanakit.serve.ticket import Failed, Progress

Make = Callable[..., Any]


def picture(data: str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


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


def events_of(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.split("\n\n") if block.startswith("event: ")]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in blocks
    ]


# Generations


def test_a_reply_carries_pictures_of_the_size_with_all_it_takes_to_draw_them_again(parts: Any) -> None:
    reply = parts.draw(n=2, size="96x64", seed=7, guidance=2, negative_prompt="green", solver="euler").json()
    assert [one["metadata"]["seed"] for one in reply["data"]] == [7, 8]
    for one in reply["data"]:
        drawn = picture(one["b64_json"])
        assert (drawn.format, drawn.size) == ("PNG", (96, 64))
        assert (
            one["metadata"] | {"solver": "euler", "guidance": 2.0, "negative_prompt": "green"}
            == one["metadata"]
        )
    found = read_metadata(io.BytesIO(base64.b64decode(reply["data"][1]["b64_json"])))
    assert (found["seed"], found["prompt"]) == (8, "a red apple")
    assert reply["usage"]["total_tokens"] == 2 * (96 // 32) * (64 // 32)
    alone = parts.draw(size="96x64", seed=8, guidance=2, negative_prompt="green", solver="euler").json()[
        "data"
    ][0]
    difference = np.asarray(drawn, int) - np.asarray(picture(alone["b64_json"]), int)
    assert abs(difference).max() <= 2


@pytest.mark.parametrize(("name", "format_"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats_are_as_asked(parts: Any, name: str, format_: str) -> None:
    data = parts.draw(output_format=name).json()["data"][0]["b64_json"]
    assert picture(data).format == format_


def test_compression_makes_smaller_files(parts: Any) -> None:
    sizes = [
        len(parts.draw(output_format="jpeg", seed=1, output_compression=q).json()["data"][0]["b64_json"])
        for q in (0, 100)
    ]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_a_picture_by_url_can_be_fetched_without_a_key_and_kept_for_ever(parts: Any, name: str) -> None:
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('ann')}"}
    one = parts.draw(response_format="url", output_format=name).json()["data"][0]
    assert one["b64_json"] is None
    del parts.client.headers["Authorization"]
    answer = parts.client.get(one["url"])
    assert answer.headers["content-type"] == f"image/{name}"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert picture(answer.content).size == (64, 64)


@pytest.mark.parametrize(
    "name",
    [
        "image_20260101_" + "0" * 32 + ".png",
        "..%2fjobs.sqlite",
        "%2e%2e/jobs.sqlite",
        "..",
        "jobs.sqlite",
        "job_" + "0" * 32 + "-image.png",
        "a" * 200,
        "image_20260101_" + "0" * 32 + ".png%00.txt",
        "C:%5cwindows",
        "%0a",
    ],
)
def test_other_names_lead_to_no_file(parts: Any, name: str) -> None:
    parts.store.put("job_" + "0" * 32 + "-image.png", b"an upload")
    answer = parts.client.get(f"/v1/pictures/{name}")
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": None},
        {"prompt": 7},
        {"prompt": "nul \0 inside"},
        {"prompt": "x" * 32_001},
        {"size": "64"},
        {"size": "63x64"},
        {"size": "8192x8192"},
        {"size": "0x0"},
        {"size": "-64x64"},
        {"n": 0},
        {"n": 11},
        {"n": "2"},
        {"n": True},
        {"steps": 0},
        {"steps": 201},
        {"guidance": -1},
        {"guidance": "2"},
        {"seed": -1},
        {"seed": 2**60},
        {"solver": "heun"},
        {"quality": "best"},
        {"style": "noir"},
        {"background": "transparent"},
        {"moderation": "none"},
        {"output_format": "gif"},
        {"response_format": "file"},
        {"output_compression": 50},
        {"output_format": "jpeg", "output_compression": 101},
        {"partial_images": 1},
        {"stream": True, "partial_images": 4},
        {"stream": True, "response_format": "url"},
        {"deadline": 0},
        {"strength": 0.5},
        {"guidence": 3},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_400(parts: Any, body: dict[str, Any]) -> None:
    answer = parts.draw(**body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
    ],
)
def test_what_is_no_json_object_is_400(parts: Any, content: bytes) -> None:
    answer = parts.client.post(
        "/v1/images/generations", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "apple " * 1700,
        "\x01\x02\x1b[31m\x7f\r\n\t\b",
        "\u202e\u0000".replace("\0", "") + "‮",
        "🍎" * 50,
        "<start_of_turn>",
    ],
    ids=["empty", "10,000 characters", "control", "bidi", "emoji", "special token"],
)
def test_odd_prompts_are_drawn(parts: Any, prompt: str) -> None:
    reply = parts.draw(prompt=prompt).json()
    assert read_metadata(io.BytesIO(base64.b64decode(reply["data"][0]["b64_json"])))["prompt"] == prompt


def test_fields_without_effect_and_nulls_are_accepted(parts: Any) -> None:
    nulls = dict.fromkeys(("model", "n", "response_format", "output_format", "stream", "seed", "guidance"))
    ignored = {"quality": "hd", "style": "vivid", "moderation": "low", "background": "opaque", "user": "u-1"}
    assert parts.draw(**nulls, **ignored).status_code == 200


def test_auto_is_the_models_own_size(parts: Any) -> None:
    assert parts.draw(size="auto", steps=1).json()["size"] == "256x256"


def test_an_unknown_model_is_404(parts: Any) -> None:
    assert code_of(parts.draw(model="dall-e-3")) == (404, "model_not_found")


def test_the_limits_of_the_server_hold(make_parts: Make) -> None:
    parts = make_parts(max_steps=3, max_side=96)
    assert [parts.draw(steps=n).status_code for n in (3, 4)] == [200, 400]
    assert [parts.draw(size=size).status_code for size in ("96x96", "128x64")] == [200, 400]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BusyError("full"), (503, "busy")),
        (RefusedError("no"), (400, "moderation_blocked")),
        (MemoryLimitError("too large"), (400, "memory_limit")),
        (NumericsError("NaN"), (500, "numerics")),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_says_reaches_the_client(
    parts: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: tuple[int, str], stream: bool
) -> None:
    """Errors at the door are a status; once a stream has begun they are its last event."""
    submit = parts.engine.submit

    def failing(request: Any, on_event: Any, **options: Any) -> Any:
        if isinstance(error, BusyError):
            raise error
        ticket = submit(request)
        on_event(Failed(ticket, error))
        return ticket

    monkeypatch.setattr(parts.engine, "submit", failing)
    answer = parts.draw(stream=stream)
    if stream and not isinstance(error, BusyError):
        ((kind, data),) = events_of(answer)
        assert (kind, data["error"]["code"]) == ("error", expected[1])
    else:
        assert code_of(answer) == expected
    assert ("Retry-After" in answer.headers) == (expected[0] == 503)
    filtered = isinstance(error, RefusedError)
    assert f"sana_filtered_total {filtered:.1f}" in parts.client.get("/metrics").text


def test_a_request_that_found_no_room_is_not_counted_against_its_key(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=1)}"}

    def full(*_: Any, **__: Any) -> None:
        raise BusyError("full")

    with monkeypatch.context() as patch:
        patch.setattr(parts.engine, "submit", full)
        assert parts.draw().status_code == 503
    assert parts.draw().status_code == 200


def test_a_deadline_that_passes_is_504(parts: Any) -> None:
    assert code_of(parts.draw(steps=200, deadline=0.05)) == (504, "deadline_passed")


# Streams


def test_a_stream_shows_each_picture_on_its_way_and_then_gives_it(parts: Any) -> None:
    events = events_of(parts.draw(stream=True, partial_images=3, n=2, steps=8, seed=5))
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
    events = events_of(parts.draw(stream=True, partial_images=asked, steps=steps))
    assert len(events) == shown + 1


def test_no_preview_leaves_a_server_whose_filter_can_not_look_at_it(make_parts: Make) -> None:
    events = events_of(make_parts(previews=False).draw(stream=True, partial_images=3, steps=8))
    assert [kind for kind, _ in events] == ["image_generation.completed"]


# Edits


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
        for kind, _ in events_of(edit(parts, file_of(GREY), stream="true", partial_images="1", steps="4"))
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
        assert code_of(edit(parts, file_of(GREY), file_of(mask)))[0] == 400


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


# Clients that leave


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
            if isinstance(event, Progress):
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
    assert "sana_disconnected_total 1.0" in parts.client.get("/metrics").text
    assert parts.draw().status_code == 200
