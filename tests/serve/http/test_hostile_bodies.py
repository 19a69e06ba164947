"""Nothing that a stranger sends holds up the event loop, on which everybody's answers wait.

What counts is the processor's time between two turns of the loop, which other programs do not change.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from sanakit.serve.http import door, images_api
from sanakit.serve.http.openai_schema import MAX_PROMPT

LONGEST = 0.05  # seconds
JSON = "application/json"


def ask(app: Any, path: str, body: bytes, kind: str, piece: int = 65_536) -> tuple[int, str, float]:
    """Post a body as a network brings it; return status, answer, and the longest turn of the loop."""
    headers = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode())]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    scope |= {"headers": headers, "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    pieces, answered, longest = iter(range(0, len(body), piece)), [], 0.0

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if (start := next(pieces, None)) is None:
            await asyncio.sleep(3600)
        assert start is not None
        more = start + piece < len(body)
        return {"type": "http.request", "body": body[start : start + piece], "more_body": more}

    async def send(message: Any) -> None:
        answered.append(message)

    async def beat() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    async def run() -> None:
        beating = asyncio.create_task(beat())
        await asyncio.sleep(0)
        await asyncio.wait_for(app(scope, receive, send), 60)
        await asyncio.sleep(0)
        beating.cancel()

    asyncio.run(run())
    text = b"".join(message.get("body", b"") for message in answered)
    return answered[0]["status"], text.decode(), longest


def refused(app: Any, path: str, body: bytes, kind: str) -> tuple[int, dict[str, Any], float]:
    """Post a body that is refused; the error in the place of the answer."""
    status, text, longest = ask(app, path, body, kind)
    return status, json.loads(text)["error"], longest


@pytest.fixture(scope="module", autouse=True)
def objects_of_other_tests_are_not_collected() -> Iterator[None]:
    """A full collection walks through all that a worker has imported: a second, in any turn."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def app(parts: Any) -> Any:
    assert parts.draw(size="64x64").status_code == 200  # what is made at the first request is made
    ask(parts.app, "/v1/images/edits", b"--x", "multipart/form-data; boundary=x")
    return parts.app


def keys(count: int) -> bytes:
    return b'{"prompt":"x",' + b",".join(b'"k%d":1' % number for number in range(count)) + b"}"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/jobs"])
def test_a_body_of_a_million_keys_is_not_read(app: Any, path: str) -> None:
    status, error, longest = refused(app, path, keys(1_000_000), JSON)
    assert (status, error["code"]) == (413, "body_too_large")
    assert longest < LONGEST


BODIES: dict[str, Callable[[], bytes]] = {
    "seventy thousand keys": lambda: keys(70_000),
    "keys of one letter": lambda: b"{" + b",".join(b'"%c":1' % (97 + n % 26) for n in range(140_000)) + b"}",
    "an array a level, in a field": lambda: b'{"prompt":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "an array a level": lambda: b"[" * 490_000 + b"]" * 490_000,
    "many elements": lambda: b"[" + b"1," * 490_000 + b"1]",
    "many elements in each field": lambda: (
        b'{"prompt":[' + b'"",' * 300_000 + b'""],"n":[' + b"1," * 30_000 + b"1]}"
    ),
    "a number of many digits": lambda: b'{"prompt":"x","seed":' + b"9" * 900_000 + b"}",
    "a fraction of many digits": lambda: b'{"prompt":"x","n":11,"guidance":1.' + b"1" * 900_000 + b"}",
    "a long prompt": lambda: b'{"prompt":"' + b"x" * 990_000 + b'"}',
    "a long name": lambda: b'{"prompt":"x","' + b"\\ud800" * 160_000 + b'":1}',
    "escapes": lambda: b'{"prompt":"' + b"\\u0000" * 160_000 + b'"}',
}


def image_of(characters: int) -> bytes:
    return b'"control":[{"name":"x","image":"' + b"A" * characters + b'"}]'


LARGE: dict[str, Callable[[], bytes]] = {
    "an image": lambda: b'{"prompt":"x",' + image_of(7_900_000) + b"}",
    "an image and keys": lambda: keys(45_000)[:-1] + b"," + image_of(7_000_000) + b"}",
    "an image and elements": lambda: b'{"n":[' + b"1," * 250_000 + b"1]," + image_of(7_000_000) + b"}",
    "a number": lambda: b'{"prompt":"x","seed":' + b"9" * 7_900_000 + b"}",
    "a fraction": lambda: b'{"prompt":"x","n":11,"guidance":1.' + b"1" * 7_900_000 + b"}",
    "a prompt": lambda: b'{"prompt":"' + b"x" * 7_900_000 + b'"}',
    "a name": lambda: b'{"prompt":"x","' + b"x" * 7_900_000 + b'":1}',
    "no base64": lambda: b'{"prompt":"x","control":[{"name":"x","image":"' + b"A=" * 2_900_000 + b'"}]}',
}


@pytest.mark.parametrize("name", LARGE)
def test_a_body_that_is_large_by_what_may_be_images_is_one_error_soon(app: Any, name: str) -> None:
    status, error, longest = refused(app, "/v1/images/generations", LARGE[name](), JSON)
    assert status == 400 or (status, error["code"]) == (413, "body_too_large")
    assert len(error["message"]) < 500
    assert longest < LONGEST


@pytest.mark.parametrize("inside", [b"1," * 500_000, b"{}," * 300_000, b"[" * 900_000, b"\\n" * 600_000])
def test_a_large_body_may_be_large_by_images_alone(app: Any, inside: bytes) -> None:
    body = b'{"prompt":"x","control":[' + inside + image_of(500_000) + b"]}"
    status, error, longest = refused(app, "/v1/images/generations", body, JSON)
    assert (status, error["code"]) == (413, "body_too_large")
    assert "large by its images alone" in error["message"]
    assert longest < LONGEST
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nx\r\n'
    form += b'--x\r\nContent-Disposition: form-data; name="control"\r\n\r\n' + body + b"\r\n--x--\r\n"
    status, error, longest = refused(app, "/v1/images/edits", form, "multipart/form-data; boundary=x")
    assert status == 400
    assert "besides its images" in error["message"]
    assert longest < LONGEST


def test_few_large_bodies_are_held_at_a_time(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"prompt":"x",' + image_of(1_000_000) + b"}"
    monkeypatch.setattr(door, "MOST_LARGE", 1)
    for _ in range(3):  # one after the other
        assert refused(app, "/v1/images/generations", body, JSON)[0] == 400
    monkeypatch.setattr(door, "MOST_LARGE", 0)
    status, error, _ = refused(app, "/v1/images/generations", body, JSON)
    assert (status, error["code"]) == (503, "busy")
    assert refused(app, "/v1/images/generations", keys(3), JSON)[0] == 400


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_wrong_all_over_is_one_error_soon(app: Any, name: str) -> None:
    status, error, longest = refused(app, "/v1/images/generations", BODIES[name](), JSON)
    assert status == 400
    assert len(error["message"]) < 500
    assert longest < LONGEST


def test_the_first_unknown_field_is_named(parts: Any) -> None:
    answer = parts.client.post("/v1/images/generations", json={"prompt": "x", "guidence": 1, "zzz": 2})
    assert answer.json()["error"]["message"] == "Unknown field 'guidence': did you mean 'guidance'?"
    assert (answer.json()["error"]["param"], answer.status_code) == ("guidence", 400)


def test_the_longest_prompts_however_they_are_written_are_no_longer_than_allowed(parts: Any) -> None:
    words = "\N{OWL}" * MAX_PROMPT
    body = json.dumps({"prompt": words, "negative_prompt": words, "size": "1x1", "user": "\N{OWL}" * 512})
    assert len(body) > 760_000
    answer = parts.client.post("/v1/images/generations", content=body, headers={"Content-Type": JSON})
    assert answer.json()["error"]["code"] == "invalid_size"


FORMS: dict[str, Callable[[], bytes]] = {
    "line ends": lambda: b"\r\n" * 2_000_000,
    "almost boundaries": lambda: (
        b"--x\r\n" + b"Content-Disposition: form-data; name=a\r\n\r\n" + b"\r\n--" * 900_000
    ),
    "a long head": lambda: b"--x\r\n" + b"A: " + b"b" * 4_000_000,
    "many heads": lambda: b"--x\r\n" + b"A: b\r\n" * 600_000,
    "many fields": lambda: b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 60_000,
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_wrong_all_over_is_one_error_and_no_long_turn(app: Any, name: str) -> None:
    status, _, longest = refused(app, "/v1/images/edits", FORMS[name](), "multipart/form-data; boundary=x")
    assert status == 400
    assert longest < LONGEST


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_bodies_that_no_route_takes_are_small(parts: Any, kind: str) -> None:
    answer = parts.client.post(
        "/v1/images/generations", content=b"a=1&" * 20_000, headers={"Content-Type": kind}
    )
    assert answer.status_code == 413


def test_a_list_of_many_jobs_with_long_prompts_is_written_elsewhere(parts: Any) -> None:
    body = {"prompt": "x" * MAX_PROMPT, "negative_prompt": "y" * MAX_PROMPT}
    for _ in range(30):
        parts.jobs.add("generation", body, None, 1)
    listed = parts.client.get("/v1/jobs", params={"limit": 20}).json()
    assert (len(listed["data"]), listed["has_more"], listed["object"]) == (20, True, "list")
    assert listed["data"][0]["request"] == body
    assert parts.client.get("/v1/jobs", params={"before": "job_" + "0" * 32}).json()["data"] == []


def test_an_upload_is_decoded_beside_the_loop(app: Any) -> None:
    file = io.BytesIO()
    Image.effect_noise((3000, 3000), 90).save(file, "PNG")
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + file.getvalue()
    form += b'\r\n--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx'
    form += b'\r\n--x\r\nContent-Disposition: form-data; name="steps"\r\n\r\n0\r\n--x--\r\n'
    status, _, longest = refused(app, "/v1/images/edits", form, "multipart/form-data; boundary=x")
    assert status == 400
    assert longest < LONGEST


@pytest.mark.parametrize("stream", [False, True])
def test_answers_of_megabytes_hold_up_nobody_and_come_whole(
    app: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    files = [bytes(range(256)) * 120_000, b"", b"x" * (3 << 19), b"y" * ((3 << 19) + 1)]

    async def large(*_: Any) -> list[bytes]:
        return files

    monkeypatch.setattr(images_api, "encode_all", large)
    body = {"prompt": "a red apple", "size": "64x64", "steps": 1, "n": len(files), "stream": stream}
    status, text, longest = ask(app, "/v1/images/generations", json.dumps(body).encode(), JSON)
    assert status == 200
    if stream:
        events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        found = [json.loads(event)["b64_json"] for event in events]
    else:
        found = [one["b64_json"] for one in json.loads(text)["data"]]
    assert [base64.b64decode(one) for one in found] == files
    assert longest < LONGEST


def test_a_prompt_is_never_taken_for_a_file(parts: Any) -> None:
    for prompt in ('"file', "file 0", 'b64_json":"'):
        reply = parts.draw(prompt=prompt).json()["data"][0]
        assert reply["metadata"]["prompt"] == prompt
        assert base64.b64decode(reply["b64_json"]).startswith(b"\x89PNG")
