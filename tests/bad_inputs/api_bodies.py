"""Bad requests of the server: bodies, forms, headers and addresses, sent to the real application.

Every answer to a bad one is a 4xx in OpenAI's form; 500 is a fault, and so is 200 for what is wrong by
construction.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bad_inputs import image_files
from bad_inputs.trial import WEIRD, Attempt, Refused, Wrong

SOUND = {"prompt": "a red apple", "size": "64x64", "steps": 1, "seed": 1}
# Wrong in every field of a body but the ones that take a text.
NEVER: tuple[Any, ...] = ([], {}, [[]], ["x"], {"x": 1}, -(2**63), 10**30)
DRAWING, EDITING, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
ADDRESSES = (
    *("/v1/pictures/../../etc/passwd", "/v1/pictures/%2e%2e%2fjobs.sqlite", "/v1/pictures/" + "a" * 3000),
    *(
        "/v1/pictures/job_x-0.png",
        "/v1/pictures/%00",
        "/v1/jobs/%00",
        "/v1/jobs/' OR 1=1",
        "/v1/jobs/" + "x" * 200,
    ),
    *("/v1/jobs?limit=-1", "/v1/jobs?limit=x", "/v1/jobs?before=%00", "/v1/models/../x", "//", "/%ff", "/v1"),
    *("/v1/jobs?limit=1e3", "/v1/jobs?limit=99999999999999999999", "/v1/jobs/job_" + "0" * 32),
)


@dataclass(frozen=True)
class Ready:
    """The application's client, what it may write to, and what edits are made from."""

    client: Any
    folder: Path
    images: image_files.Ready
    fields: tuple[str, ...]


def prepare(folder: Path, model: Path) -> Ready:
    """Start an engine with the tiny model, and build the application around it."""
    from fastapi.testclient import TestClient

    from sanakit.serve.engine.engine import Engine
    from sanakit.serve.http.app import create_app
    from sanakit.serve.http.openai_schema import EditRequest
    from sanakit.serve.http.service import HttpSettings
    from sanakit.serve.jobs.database import Database
    from sanakit.serve.jobs.jobs import JobStore
    from sanakit.serve.jobs.keys import KeyStore
    from sanakit.serve.jobs.storage import ImageStore

    data = folder / "data"
    database = Database(data / "jobs.sqlite")
    engine = Engine([str(model)], device="cpu", threads=1)
    engine.start()
    app = create_app(
        engine,
        jobs=JobStore(database),
        store=ImageStore(str(data / "pictures")),
        keys=KeyStore(database),
        settings=HttpSettings(max_steps=3, max_side=256),
        draining=threading.Event(),
        wake=lambda: None,
    )
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    return Ready(client, data, image_files.prepare(folder, model), tuple(EditRequest.model_fields))


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Make a request and send it."""
    kind = rng.choice((_field, _field, _field, _raw, _headers, _form, _form, _address))
    what, send, invalid = kind(rng, ready)
    return Attempt(what, lambda: _judged(send()), invalid, writes=(ready.folder,))


def _judged(answer: Any) -> list[str]:
    """Return an answer's warnings. Raises Refused for a sound refusal, Wrong for any other failure."""
    if answer.status_code < 300:
        if not answer.headers["content-type"].startswith("application/json"):
            return []
        return list(answer.json().get("warnings", ()))
    if answer.status_code >= 500:
        raise Wrong(f"status {answer.status_code}: {answer.text[:300]}")
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        raise Wrong(f"status {answer.status_code} without a message: {answer.text[:200]!r}") from None
    raise Refused(message)


Request = tuple[str, Callable[[], Any], bool]


def _field(rng: random.Random, ready: Ready) -> Request:
    """Put a strange value into a field of a body."""
    key = rng.choice((*ready.fields, "x", "Prompt", "__proto__", "num_images"))
    never = rng.random() < 0.6
    value = rng.choice(NEVER if never else WEIRD)
    to = rng.choice((DRAWING, JOBS))
    body = SOUND | {key: value}
    return f"POST {to} {key} = {str(value)[:40]!r}", lambda: _post(ready, to, _json(body)), never


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _post(ready: Ready, to: str, content: bytes, **headers: str) -> Any:
    return ready.client.post(to, content=content, headers={"Content-Type": "application/json"} | headers)


def _raw(rng: random.Random, ready: Ready) -> Request:
    """Send a body that is not an object of JSON."""
    sound = _json(SOUND)
    content = rng.choice(
        (
            *(
                b"",
                b"{",
                b"null",
                b"[]",
                b"1",
                b'"x"',
                b"\xff\xfe",
                b"[" * 100_000,
                b'{"a":' * 50_000,
                sound[:-5],
            ),
            *(sound.decode().encode("utf-16"), b"\xef\xbb\xbf" + sound, b'{"prompt": "\xff"}', sound + sound),
            *(b'{"prompt": "a", "n": 1e400}', b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b"\0" * 99),
            *(_json(SOUND | {f"x{n}": n for n in range(20_000)}), b"a" * 21_000_000, b"prompt=a&size=64x64"),
        )
    )
    to = rng.choice((DRAWING, JOBS))
    marked = content.startswith(
        (b"\xff\xfe{", b"\xef\xbb\xbf")
    )  # JSON in UTF-16, or with a mark: it may be read
    return f"POST {to} the body {content[:30]!r}", lambda: _post(ready, to, content), not marked


def _headers(rng: random.Random, ready: Ready) -> Request:
    """Send a sound body under strange headers."""
    name, value = rng.choice(
        (
            *(
                ("Content-Type", text)
                for text in ("", "text/plain", "application/json; charset=x", "\xff", "a/b/c")
            ),
            *(("Content-Length", text) for text in ("-1", "x", "99999999999", "0")),
            *(("Idempotency-Key", text) for text in ("", "x" * 300, "\xff", "' OR 1=1")),
            *(
                ("Authorization", text)
                for text in ("", "Bearer", "Bearer \xff", "Basic eDp5", "Bearer " + "x" * 9000)
            ),
            *(("Host", text) for text in ("", "evil.example", "[", "127.0.0.1:99999")),
            *(("Origin", text) for text in ("null", "https://evil.example", "x", "\xff")),
            *(("X-Forwarded-For", text) for text in ("x", "1.2.3.4, x", "\xff")),
            *(
                ("Content-Encoding", "gzip"),
                ("Transfer-Encoding", "x"),
                ("Accept", "\xff"),
                ("Range", "bytes=9-1"),
            ),
        )
    )
    body, to = _json(SOUND), rng.choice((DRAWING, JOBS))
    headers = {"Content-Type": b"application/json"} | {name: value.encode("latin-1")}
    return (
        f"POST {to} {name}: {value[:30]!r}",
        lambda: ready.client.post(to, content=body, headers=headers),
        False,
    )


def _form(rng: random.Random, ready: Ready) -> Request:
    """Send an edit with a strange field, image, mask or form."""
    fields: dict[str, Any] = {key: str(value) for key, value in SOUND.items()} | {"strength": "1"}
    sound = ready.images.image.read_bytes()
    files: list[tuple[str, Any]] = [("image", ("x.png", sound))]
    how, invalid = (
        rng.choice(("field", "image", "image", "mask", "missing", "twice", "names", "raw", "many")),
        False,
    )
    if how == "field":
        key = rng.choice((*ready.fields, "x", "image", "mask"))
        invalid = key in ("x", "image", "mask")
        fields[key] = rng.choice(("", "x", "-1", "1e400", "nan", "[]", "\0", "é" * 300, "true", "9" * 5000))
        how = f"{key} = {fields[key][:20]!r}"
    elif how in ("image", "mask"):
        make = rng.choice((image_files.odd, image_files.bits, image_files.foreign, image_files.png_chunks))
        content, told, invalid = make(rng)
        part = (
            rng.choice(("x.png", "../../x", "", "x\0.png", "é")),
            content,
            rng.choice(("image/png", "x", "")),
        )
        files = [("image", part)] if how == "image" else [*files, ("mask", part)]
        how = f"{how}: {told}"
    elif how == "missing":
        files, invalid = [("x", ("x.png", sound))], True
    elif how == "twice":
        files, invalid = files * 2, True
    elif how == "names":
        files, invalid = [(rng.choice(("image[0]", "mask[]", "Image", "")), ("x.png", sound))], True
    elif how == "many":
        files, invalid = [(f"x{n}", ("x", b"")) for n in range(50)], True
    to = rng.choice((EDITING, f"{JOBS}/edits"))
    if how == "raw":
        content = rng.choice(
            (
                b"",
                b"--x",
                b"--x\r\n\r\n--x--",
                b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--",
                sound,
            )
        )
        kind = rng.choice(
            ("multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary=")
        )
        headers = {"Content-Type": kind}
        return (
            f"POST {to} {kind} {content[:20]!r}",
            lambda: ready.client.post(to, content=content, headers=headers),
            True,
        )
    return f"POST {to} {how}", lambda: ready.client.post(to, data=fields, files=files), invalid


def _address(rng: random.Random, ready: Ready) -> Request:
    """Ask for a strange address, or a sound one in a strange way."""
    address = rng.choice((*ADDRESSES, DRAWING, EDITING, JOBS, "/v1/models"))
    method = rng.choice(("GET", "GET", "DELETE", "PUT", "PATCH", "POST", "OPTIONS", "TRACE", "X"))
    return f"{method} {address[:60]}", lambda: ready.client.request(method, address), False
