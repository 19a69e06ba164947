"""Misuses of a server by the clients of `siege.py`, and looks at it, each as one deed.

What is sent wrong stands in tables, beside the status and the code that are the right answer.
"""

from __future__ import annotations

import asyncio

from siege_crowd import EDITS, GENERATIONS, JOBS, LATER, LONGEST, PATIENCE, Client, sides

# Bodies of generations and jobs, and the status and code of the answer.
BAD_BODIES: dict[bytes, tuple[int, str]] = {
    b"": (400, "missing_required_parameter"),
    b"{": (400, "invalid_json"),
    b"\xff\xfe": (400, "invalid_json"),
    b"[" * 100_000: (400, "invalid_json"),
    b'"a red apple"': (400, "invalid_json"),
    b"{}": (400, "missing_required_parameter"),
    b'{"prompt": null}': (400, "invalid_value"),
    b'{"prompt": "a\\u0000b"}': (400, "invalid_value"),
    b'{"prompt": "a", "guidence": 3}': (400, "unknown_parameter"),
    b'{"prompt": "a", "n": 11}': (400, "invalid_value"),
    b'{"prompt": "a", "size": "32x64"}': (400, "invalid_size"),
    b'{"prompt": "a", "size": "99999x64"}': (400, "invalid_size"),
    b'{"prompt": "a", "size": "small"}': (400, "invalid_value"),
    b'{"prompt": "a", "steps": 999}': (400, "invalid_value"),
    b'{"prompt": "a", "model": "another"}': (404, "model_not_found"),
    b'{"prompt": "' + b"a" * 40_000 + b'"}': (400, "invalid_value"),
    b'{"prompt": "' + b"a" * 1_100_000 + b'"}': (413, "body_too_large"),
}
OURS, SMALLER = b"an image of the client's", b"a mask of another size"  # files stand in their places
# Fields and files of edits, and the status and code of the answer.
BAD_FORMS: list[tuple[dict[str, str], dict[str, bytes], tuple[int, str]]] = [
    ({"prompt": "a"}, {}, (400, "invalid_value")),
    ({}, {"image": OURS}, (400, "missing_required_parameter")),
    ({"prompt": "a"}, {"image": b"not an image"}, (400, "invalid_value")),
    ({"prompt": "a"}, {"image": b"\x89PNG\r\n\x1a\n" + b"\0" * 60}, (400, "invalid_value")),
    ({"prompt": "a"}, {"image": OURS, "mask": b"not an image"}, (400, "invalid_value")),
    ({"prompt": "a"}, {"image": OURS, "mask": SMALLER}, (400, "invalid_size")),
    ({"prompt": "a", "strength": "2"}, {"image": OURS}, (400, "invalid_value")),
    ({"prompt": "a", "strenght": "1"}, {"image": OURS}, (400, "unknown_parameter")),
    ({"prompt": "a"}, {"image": OURS, "picture": OURS}, (400, "unknown_parameter")),
]
NO_HTTP = (
    b"HELO\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"\x16\x03\x01\0\0",
)
# Method, path, Authorization where it is not the client's own, and the status and code of the answer.
REFUSED: list[tuple[str, str, str | None, tuple[int, str]]] = [
    ("GET", "/v1/models", "Bearer wrong", (401, "invalid_api_key")),
    ("POST", GENERATIONS, "Basic wrong", (401, "invalid_api_key")),
    ("GET", "/v1/models/another", None, (404, "model_not_found")),
    ("GET", f"{JOBS}/job_{32 * '0'}", None, (404, "job_not_found")),
    ("DELETE", f"{JOBS}/job_{32 * '0'}", None, (404, "job_not_found")),
    ("GET", "/v1/pictures/..%2Fjobs.sqlite", None, (404, "not_found")),
    ("GET", f"/v1/pictures/image_20260101_{32 * '0'}.png", None, (404, "picture_not_found")),
    ("GET", "/v2/models", None, (404, "not_found")),
    ("PUT", JOBS, None, (405, "method_not_allowed")),
    ("GET", GENERATIONS, None, (405, "method_not_allowed")),
    ("DELETE", "/health", None, (405, "method_not_allowed")),
]
LOOKED_AT = ("/v1/models", "/v1/models/pocket", "/openapi.json", "/health", "/ready", "/metrics")
UNCHANGING = LOOKED_AT[:4]


async def sends_a_bad_body(client: Client) -> None:
    """Send JSON that is wrong, and hear why."""
    body = client.chance.choice(list(BAD_BODIES))
    headers = {"Content-Type": "application/json"}
    answer = await client.ask(
        "POST", client.chance.choice((GENERATIONS, JOBS)), content=body, headers=headers
    )
    client.expect(answer, *BAD_BODIES[body])


async def sends_a_bad_form(client: Client) -> None:
    """Send a form that is wrong, and hear why."""
    fields, files, right = client.chance.choice(BAD_FORMS)
    place = {OURS: client.uploads.images[0][1], SMALLER: client.uploads.masks[128, 128]}
    sent = {name: (name, place.get(file, file)) for name, file in files.items()}
    path = client.chance.choice((EDITS, f"{JOBS}/edits"))
    client.expect(await client.ask("POST", path, data=fields, files=sent or None), *right)


async def sends_slowly(client: Client) -> None:
    """Send a request piece by piece; it is answered like any other."""
    body = client.settings(**client.formats())
    sent = client.raw(GENERATIONS, body)
    reader, writer = await client.connect()
    try:
        for start in range(0, len(sent), 60):
            writer.write(sent[start : start + 60])
            await writer.drain()
            await asyncio.sleep(client.chance.uniform(0, 0.5))
        async with asyncio.timeout(LONGEST):
            came = await reader.read(-1)
    finally:
        writer.close()
    answer = client.take_raw("POST", GENERATIONS, came)
    await client.open_all(answer, body, sides(body["size"]))


async def never_ends_its_request(client: Client) -> None:
    """Send the beginning of a request: leave at once, or wait to be let go."""
    sent = client.raw(GENERATIONS, client.settings())
    reader, writer = await client.connect()
    try:
        writer.write(sent[: client.chance.randrange(len(sent))])
        await writer.drain()
        if client.chance.random() < 0.5:
            return
        async with asyncio.timeout(PATIENCE):
            if came := await reader.read(-1):
                client.seen.fault(f"a request without its end was answered ({came[:20]!r})")
    except TimeoutError:
        client.seen.fault(f"a connection whose request never ends is open after {PATIENCE:g} s")
    except ConnectionError:
        pass
    finally:
        writer.close()


async def reads_slowly(client: Client) -> None:
    """Let the answer wait in the connection, then read it in pieces, or leave without it."""
    body = client.settings(size="192x192", n=4, output_format="png", response_format="b64_json")
    reader, writer = await client.connect()
    came = b""
    try:
        writer.write(client.raw(GENERATIONS, body))
        await writer.drain()
        await asyncio.sleep(client.chance.uniform(2, 6))
        if client.chance.random() < 0.3:
            return
        async with asyncio.timeout(LONGEST):
            while part := await reader.read(20_000):
                came += part
                await asyncio.sleep(0.02)
    finally:
        writer.close()
    await client.open_all(client.take_raw("POST", GENERATIONS, came), body, (192, 192))


async def sends_no_http(client: Client) -> None:
    """Send bytes that are not HTTP."""
    reader, writer = await client.connect()
    try:
        writer.write(client.chance.choice(NO_HTTP))
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            came = await reader.read(-1)
    finally:
        writer.close()
    if came:
        client.expect(client.take_raw("GET", "/", came), 400, "invalid_http")


async def asks_twice_at_once(client: Client) -> None:
    """Send two requests on one connection before either answer."""
    reader, writer = await client.connect()
    try:
        ask = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        writer.write(ask + b"\r\n" + ask + b"Connection: close\r\n\r\n")
        async with asyncio.timeout(LONGEST):
            came = await reader.read(-1)
    finally:
        writer.close()
    if came.count(b"HTTP/1.1 200 OK") != 2:
        client.seen.fault(f"two requests on one connection: {came[:40]!r}")


async def looks(client: Client) -> None:
    """Look at what there is, and at the jobs."""
    for path in client.chance.sample(LOOKED_AT, 2):
        got = await client.ask("GET", path)
        if not client.expect(got, 200):
            return
        head = await client.ask("HEAD", path)
        same = path not in UNCHANGING or head.headers["content-length"] == str(len(got.body))
        if head.body or (client.expect(head, 200) and not same):
            client.seen.fault(f"HEAD {path} differs from GET")
    page = await client.ask("GET", f"{JOBS}?limit={client.chance.choice((1, 5, 20))}")
    if client.expect(page, 200) and (jobs := page.json()["data"]):
        await client.ask("GET", f"{JOBS}?limit=2&before={jobs[-1]['id']}")


async def is_refused(client: Client) -> None:
    """Ask without a right to it, or for something that is not there."""
    method, path, authorization, right = client.chance.choice(REFUSED)
    headers = {} if authorization is None else {"Authorization": authorization}
    client.expect(await client.ask(method, path, headers=headers, token=client.token), *right)
    headers = {"Origin": "https://elsewhere.example"}
    client.expect(await client.ask("GET", "/v1/models", headers=headers), 403, "foreign_origin")
    for job in client.chance.sample(list(client.seen.jobs), min(1, len(client.seen.jobs))):
        other = await client.ask("GET", f"{JOBS}/{job}", token=client.limited[0])
        client.expect(other, 404, "job_not_found")


async def has_a_limit(client: Client) -> None:
    """Draw with a key that may do so only so often."""
    body = client.settings(**client.formats(), n=1)
    answer = await client.ask("POST", GENERATIONS, json=body, token=client.chance.choice(client.limited))
    if answer.status not in LATER:
        await client.open_all(answer, body, sides(body["size"]))
