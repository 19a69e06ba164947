"""Uses of a server by the clients of `siege.py`: each deed is one way to draw, to wait, or to leave."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import httpx
from siege_crowd import (
    EDITS,
    GENERATIONS,
    JOBS,
    LONGEST,
    AcceptedJob,
    Answer,
    Client,
    sides,
)


async def draws(client: Client) -> None:
    """Ask for images and wait for them."""
    body = client.settings(**client.formats())
    await client.open_all(await client.ask("POST", GENERATIONS, json=body), body, sides(body["size"]))


async def edits(client: Client) -> None:
    """Send an image, perhaps with a mask, and wait for what becomes of it."""
    fields, files, size = client.form(**client.formats())
    await client.open_all(await client.ask("POST", EDITS, data=fields, files=files), fields, size)


async def reads_a_stream(client: Client) -> None:
    """Read a stream to its end."""
    await _stream(client, LONGEST)


async def leaves_a_stream(client: Client) -> None:
    """Close a stream in the middle."""
    with suppress(TimeoutError):
        await _stream(client, client.chance.uniform(0, 1.5))


async def _stream(client: Client, seconds: float) -> None:
    previews = client.chance.choice((0, 1, 3))
    more = {"stream": True, "partial_images": previews, "output_format": "png"}
    if client.chance.random() < 0.3:
        fields, files, size = client.form(**more | {"stream": "true"})
        path, request, count = EDITS, {"data": fields, "files": files}, int(fields["n"])
    else:
        body = client.settings(**more)
        path, request, count, size = GENERATIONS, {"json": body}, body["n"], sides(body["size"])
    headers = {"Authorization": f"Bearer {client.token}"}
    events: list[tuple[str, dict[str, Any]]] = []
    async with asyncio.timeout(seconds), client.http.stream("POST", path, headers=headers, **request) as came:
        whole = b"" if came.status_code == 200 else await came.aread()
        if not client.expect(
            client.seen.take(Answer("POST", path, came.status_code, came.headers, whole)), 200
        ):
            return
        async for line in came.aiter_lines():
            word, _, value = line.partition(": ")
            if word == "event":
                events.append((value, {}))
            elif word == "data":
                events[-1] = events[-1][0], json.loads(value)
    _judge_events(client, path, events, count, previews, size)


def _judge_events(
    client: Client,
    path: str,
    events: list[tuple[str, dict[str, Any]]],
    count: int,
    previews: int,
    size: tuple[int, int],
) -> None:
    """Open the images of a whole stream: a last one each, and no more previews than were asked for."""
    where, last, partial = f"stream of {path}", 0, 0
    for name, data in events:
        if name == "error":
            code = data["error"]["code"]
            if not any(code in codes for codes in client.seen.errors.values()):
                client.seen.fault(f"{where}: an error {code}, which is not documented")
            return
        file = base64.b64decode(data["b64_json"])
        if name.endswith(".completed"):
            last += 1
            client.seen.open(file, size, "png", where)
        else:
            partial += 1
            client.seen.open(file, None, "png", where)
    if last != count or partial > count * previews:
        client.seen.fault(f"{where}: {last} of {count} images and {partial} previews")


async def hangs_up(client: Client) -> None:
    """Close the connection before the answer, wherever the server is with it."""
    if client.chance.random() < 0.3:
        fields, files, _ = client.form(**client.formats())
        call = client.ask("POST", EDITS, data=fields, files=files)
    else:
        call = client.ask("POST", GENERATIONS, json=client.settings(**client.formats()))
    await _cut(call, client.chance.uniform(0, 2))


async def _cut(call: Coroutine[Any, Any, Answer], seconds: float) -> Answer | None:
    """Wait for an answer for so many seconds, then close its connection."""
    task = asyncio.ensure_future(call)
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        return task.result()
    task.cancel()
    with suppress(asyncio.CancelledError, httpx.HTTPError):
        await task
    return None


async def has_no_time(client: Client) -> None:
    """Ask for an image with a deadline that may pass."""
    body = client.settings(**client.formats(), deadline=client.chance.choice((0.01, 0.3, 2.0)))
    answer = await client.ask("POST", GENERATIONS, json=body)
    if answer.status != 504:
        await client.open_all(answer, body, sides(body["size"]))


async def adds_a_job(client: Client) -> None:
    """Have a job done, look at it for a while, and open its images if it is finished by then."""
    job = await _add(client)
    for _ in range(client.chance.randrange(40)):
        if job is None or job["status"] in ("finished", "failed", "cancelled"):
            break
        await asyncio.sleep(client.chance.uniform(0.2, 1))
        answer = await client.ask("GET", f"{JOBS}/{job['id']}")
        job = answer.json() if client.expect(answer, 200) else None


async def cancels_a_job(client: Client) -> None:
    """Cancel a job that waits, or runs, or is finished by then."""
    if (job := await _add(client)) is None:
        return
    await asyncio.sleep(client.chance.choice((0, 0.1, 0.5, 2)))
    for _ in range(client.chance.choice((1, 1, 2))):
        answer = await client.ask("DELETE", f"{JOBS}/{job['id']}")
        if (answer.status, answer.code) == (409, "job_ended"):
            end = "finished"
        elif client.expect(answer, 200):
            end = "cancelled"
        else:
            return
        accepted = client.seen.jobs[job["id"]]
        client.seen.jobs[job["id"]] = AcceptedJob(accepted.pictures, accepted.size, end)


async def repeats_a_job(client: Client) -> None:
    """Send the same job several times at once and once later; then another one under the same key."""
    key = client.key()
    request = _job(client)
    first = await asyncio.gather(
        *(_accepted(client, request, key) for _ in range(client.chance.choice((1, 3))))
    )
    await asyncio.sleep(client.chance.uniform(0, 1))
    ids = {job["id"] for job in (*first, await _accepted(client, request, key)) if job}
    if len(ids) > 1:
        client.seen.fault("a job was accepted twice under one Idempotency-Key")
    if ids:
        body = {"prompt": "another image", "size": "64x64", "n": 1}
        other = await client.ask("POST", JOBS, json=body, headers={"Idempotency-Key": key})
        client.expect(other, 409, "idempotency_key_reused")


async def does_not_hear_of_its_job(client: Client) -> None:
    """Leave before a job's answer; the end of the siege asks again with the same key."""
    key, body = client.key(), client.settings()
    call = client.ask("POST", JOBS, json=body, headers={"Idempotency-Key": key})
    answer = await _cut(call, client.chance.uniform(0, 0.3))
    heard = answer.json()["id"] if answer and answer.status == 202 else None
    client.seen.unheard.append((key, body, heard))


Job = tuple[str, dict[str, Any], int, tuple[int, int]]  # path, request, images and their size


def _job(client: Client) -> Job:
    if client.chance.random() < 0.4:
        fields, files, size = client.form()
        return f"{JOBS}/edits", {"data": fields, "files": files}, int(fields["n"]), size
    body = client.settings()
    return JOBS, {"json": body}, body["n"], sides(body["size"])


async def _add(client: Client) -> dict[str, Any] | None:
    """Send a job, with a key or without."""
    return await _accepted(client, _job(client), client.key() if client.chance.random() < 0.5 else None)


async def _accepted(client: Client, job: Job, key: str | None) -> dict[str, Any] | None:
    """Send a job; return it, or None if it was told to come later."""
    path, request, pictures, size = job
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await client.ask("POST", path, **request, headers=headers)
    if not client.expect(answer, 202):
        return None
    client.seen.jobs.setdefault(answer.json()["id"], AcceptedJob(pictures, size, "finished"))
    return answer.json()
