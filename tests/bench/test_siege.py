"""The siege of a server finds what it is there to find: each fault is planted, and told."""

from __future__ import annotations

import asyncio
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from PIL import Image

pytest.importorskip("fastapi")
OWN = ("siege", "siege_crowd", "siege_deeds", "siege_misuse", "serve", "side_by_side")
ROUTES = {("GET", "/v1/jobs/{job_id}"): {200, 404}, ("POST", "/v1/jobs"): {202, 503}}


@pytest.fixture
def siege(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    import siege

    yield siege
    for name in OWN:
        sys.modules.pop(name, None)


def seen_of(siege: ModuleType) -> Any:
    """What nobody has seen yet, of a server with ROUTES."""
    return siege.Seen(dict(ROUTES), siege.documented(siege.PAGE.read_text()))


def client_of(siege: ModuleType, answers: dict[str, tuple[int, Any]]) -> Any:
    """A client of a server that has these answers, by path."""

    def answer(request: httpx.Request) -> httpx.Response:
        status, body = answers[request.url.path]
        return httpx.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    http = httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(answer))
    client = siege.Client(0, 0, http, seen_of(siege), None, "token", ["limited"])
    client.chance = random.Random(2)  # which asks for no HEAD first
    return client


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code}}).encode()


def test_the_codes_of_the_page_are_read(siege: ModuleType) -> None:
    codes = siege.documented(siege.PAGE.read_text())
    assert codes[405] == {"method_not_allowed"}
    assert codes[503] == {"busy", "closing", "stopped", "storage"}
    assert {"invalid_value", "memory_limit", "moderation_blocked"} <= codes[400]


@pytest.mark.parametrize(
    ("method", "path", "status", "headers", "body", "said"),
    [
        ("GET", "/v1/jobs/job_1", 404, {"x-should-retry": "false"}, error("job_not_found"), None),
        ("POST", "/v1/jobs", 503, {"x-should-retry": "true", "retry-after": "2"}, error("busy"), None),
        ("POST", "/v1/jobs?x=1", 503, {"x-should-retry": "true"}, error("busy"), "does not say when"),
        ("GET", "/v1/jobs/job_1", 404, {"x-should-retry": "false"}, error("lost"), "is not documented"),
        ("GET", "/v1/jobs/job_1", 404, {"x-should-retry": "false"}, b"Not Found", "is not documented"),
        ("GET", "/v1/jobs/job_1", 404, {}, error("job_not_found"), "whether asking again helps"),
        ("POST", "/v1/jobs", 200, {}, b"{}", "not one of the route's answers"),
        ("GET", "/v1/jobs/a/b", 500, {"x-should-retry": "false"}, error("internal_error"), "not one of"),
    ],
)
def test_an_answer_that_is_not_documented_is_a_fault(
    siege: ModuleType,
    method: str,
    path: str,
    status: int,
    headers: dict[str, str],
    body: bytes,
    said: str | None,
) -> None:
    seen = seen_of(siege)
    crowd = sys.modules["siege_crowd"]
    seen.take(crowd.Answer(method, path, status, headers, body))
    assert sum(seen.answers.values()) == 1
    assert len(seen.faults) == (said is not None)
    assert all(said in fault for fault in seen.faults)


def test_an_image_that_does_not_open_or_is_another_one_is_a_fault(siege: ModuleType) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 32)).save(file, "PNG")
    seen = seen_of(siege)
    seen.open(file.getvalue(), (64, 32), "png", "here")
    assert (seen.opened, sum(seen.faults.values())) == (1, 0)
    seen.open(file.getvalue(), (32, 64), "png", "size")
    seen.open(file.getvalue(), (64, 32), "webp", "form")
    seen.open(file.getvalue()[:60], (64, 32), "png", "half")
    assert [fault.split(":")[0] for fault in seen.faults] == ["size", "form", "half"]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"status": "finished", "images": 1}, None),
        (None, "lost"),
        ({"status": "cancelled", "images": 0}, "cancelled that should be finished"),
        ({"status": "finished", "images": 0}, "has 0"),
    ],
)
def test_a_job_that_is_lost_or_ends_otherwise_is_a_fault(
    siege: ModuleType, stored: dict[str, Any] | None, said: str | None
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    client = client_of(siege, {"/v1/pictures/a.png": (200, file.getvalue())})
    client.seen.routes["GET", "/v1/pictures/{name}"] = {200}
    job = stored and {
        "status": stored["status"],
        "error": None,
        "data": [{"url": "http://server/v1/pictures/a.png"}] * stored["images"],
    }
    asyncio.run(siege.judge_job(client, job, siege.AcceptedJob(1, (64, 64), "finished")))
    assert any(said in fault for fault in client.seen.faults) if said else not client.seen.faults


@pytest.mark.parametrize(
    ("memory", "log", "minutes", "said"),
    [
        ([100.0] * 200 + [102.9] * 100, "all is well\n", 5, None),
        ([100.0] * 200 + [103.1] * 100, "all is well\n", 5, "memory grew by 3.1%"),
        ([100.0] * 20 + [110.0] * 10, "all is well\n", 0.5, None),
        ([100.0] * 300, "Traceback (most recent call last):\n", 5, "Traceback"),
        ([100.0] * 300, "Task exception was never retrieved\n", 5, "never retrieved"),
    ],
)
def test_memory_that_grows_and_a_traceback_in_the_log_are_faults(
    siege: ModuleType, memory: list[float], log: str, minutes: float, said: str | None
) -> None:
    watched = siege.Watched(memory=memory, health=[0.01], files=[5], threads=[5])
    outcome = siege.judged(seen_of(siege), watched, log, 60 * minutes)
    assert len(outcome.faults) == (said is not None)
    assert all(said in fault for fault in outcome.faults)


def test_the_same_seed_asks_for_the_same(siege: ModuleType) -> None:
    asked = [
        [siege.Client(number, seed, None, None, None, "", []).settings() for _ in range(20)]
        for number, seed in ((0, 1), (0, 1), (1, 1), (0, 2))
    ]
    assert asked[0] == asked[1]
    assert asked[0] not in asked[2:]
