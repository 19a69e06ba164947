"""Who comes in and what everybody gets: keys, limits, bodies, headers, errors in OpenAI's form, figures."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from sanakit.errors import StorageError
from sanakit.serve.http import connection, failures
from sanakit.serve.jobs.keys import WRONG_KEYS_A_MINUTE

Make = Callable[..., Any]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def error_of(answer: Any) -> dict[str, Any]:
    """The error, whose form is checked: exactly the four fields of OpenAI's."""
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_without_keys_this_machine_may_draw(parts: Any) -> None:
    assert parts.draw().status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]", "[::1", "127.0.0.1]"]
)
def test_without_keys_a_foreign_host_name_is_refused(parts: Any, host: str) -> None:
    answer = parts.client.get("/v1/models", headers={"Host": host})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "foreign_host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_without_keys_names_of_this_machine_are_welcome(parts: Any, host: str) -> None:
    assert parts.client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_beyond_loopback_nobody_comes_in_without_a_key(make_parts: Make) -> None:
    assert make_parts(local=False).client.get("/v1/models").status_code == 401


def test_no_auth_lets_everybody_in(make_parts: Make) -> None:
    parts = make_parts(local=False, no_auth=True)
    parts.keys.create("ann")
    assert parts.client.get("/v1/models", headers={"Host": "sana.example"}).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Basic {token}",
        "{token}",
        "Bearer {token}x",
        "Bearer \x80\xff",
        "Bearer " + "k" * 9000,
    ],
)
def test_a_wrong_or_missing_key_is_401(parts: Any, authorization: str | None) -> None:
    token = parts.keys.create("ann")
    headers = (
        {}
        if authorization is None
        else {"Authorization": authorization.format(token=token).encode("latin-1")}
    )
    answer = parts.client.get("/v1/models", headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_made_while_the_server_runs_is_needed_at_once_and_still_after_its_end(parts: Any) -> None:
    assert parts.client.get("/v1/models").status_code == 200
    token = parts.keys.create("ann")
    assert parts.client.get("/v1/models").status_code == 401
    assert parts.client.get("/v1/models", headers=bearer(token)).status_code == 200
    parts.keys.revoke("ann")
    assert parts.client.get("/v1/models", headers=bearer(token)).status_code == 401
    assert parts.client.get("/v1/models").status_code == 401


def test_many_wrong_keys_of_an_address_get_429_and_the_right_one_still_works(parts: Any) -> None:
    token = parts.keys.create("ann")
    statuses = [
        parts.client.get("/v1/models", headers=bearer("wrong")).status_code
        for _ in range(WRONG_KEYS_A_MINUTE)
    ]
    assert statuses == [401] * WRONG_KEYS_A_MINUTE
    answer = parts.client.get("/v1/models", headers=bearer("wrong"))
    assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert parts.client.get("/v1/models", headers=bearer(token)).status_code == 200


def test_requests_a_minute_and_pictures_a_day_are_limited_and_looking_is_free(parts: Any) -> None:
    often, few = parts.keys.create("often", per_minute=2), parts.keys.create("few", per_day=3)
    for token, body, allowed in ((often, {}, 2), (few, {"n": 2}, 1)):
        parts.client.headers = bearer(token)
        assert [parts.draw(**body).status_code for _ in range(allowed + 1)] == [200] * allowed + [429]
        assert int(parts.draw(**body).headers["Retry-After"]) >= 1
        assert parts.client.get("/v1/models").status_code == 200


def test_a_request_that_is_wrong_costs_nothing(parts: Any) -> None:
    parts.client.headers = bearer(parts.keys.create("few", per_day=1))
    assert parts.draw(size="1x1").status_code == 400
    assert parts.draw().status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json"])
def test_those_who_watch_need_no_key(make_parts: Make, path: str) -> None:
    parts = make_parts(local=False)
    assert parts.client.get(path, headers={"Host": "10.0.0.1"}).status_code == 200


def test_the_body_is_not_read_before_the_key_is_seen(make_parts: Make) -> None:
    parts, read = make_parts(local=False), []

    def body() -> Iterator[bytes]:
        read.append(True)
        yield b"{}"

    assert parts.client.post("/v1/images/generations", content=body()).status_code == 401


def test_a_body_over_the_limit_is_413_whatever_content_length_says(make_parts: Make) -> None:
    parts = make_parts(body_limit=1000)
    sent = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 100:
            sent.append(1)
            yield b" " * 400

    big = json.dumps({"prompt": "x" * 2000})
    form = {"image": ("a.png", b"x" * 2000)}
    answers = [
        parts.client.post(
            "/v1/images/generations", content=big, headers={"Content-Type": "application/json"}
        ),
        parts.client.post(
            "/v1/images/generations", content=endless(), headers={"Content-Type": "application/json"}
        ),
        parts.client.post("/v1/images/edits", files=form, data={"prompt": "x"}),
        parts.client.post("/v1/jobs", content=big, headers={"Content-Type": "application/json"}),
    ]
    assert [(answer.status_code, error_of(answer)["code"]) for answer in answers] == [
        (413, "body_too_large")
    ] * 4
    assert parts.draw().status_code == 200


def test_an_endless_body_is_not_read_to_its_end(make_parts: Make) -> None:
    """What the application itself asks for: the test client would read the whole body first."""
    import asyncio

    parts, asked = make_parts(body_limit=1000), []

    async def receive() -> dict[str, Any]:
        asked.append(1)
        return {"type": "http.request", "body": b" " * 400, "more_body": True}

    answered = []

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images/generations",
        "raw_path": b"",
        "headers": headers,
    }
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    asyncio.run(parts.app(scope, receive, send))
    assert (answered[0]["status"], len(asked)) == (413, 3)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/redoc", 404, "not_found"),
        ("GET", "/v1/models/dall-e-3", 404, "model_not_found"),
        ("GET", "/v1/images/generations", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 400, "invalid_value"),
        ("POST", "/v1/images/generations", 400, "missing_required_parameter"),
    ],
)
def test_every_error_has_openais_form(parts: Any, method: str, path: str, status: int, code: str) -> None:
    answer = parts.client.request(method, path)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


def test_the_page_lists_every_code(repository: Path) -> None:
    page = (repository / "docs" / "serve.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)`", page.split("## When it says no")[1].split("\n## ")[0]))
    sources = [path.read_text(encoding="utf-8") for path in Path(failures.__file__).parent.glob("*.py")]
    codes = {code for source in sources for code in re.findall(r'code="([a-z_]+)"', source)}
    codes |= {code for *_, code, _ in failures._KNOWN if code}
    codes |= {HTTPStatus(status).phrase.lower().replace(" ", "_") for status in (404, 405)}
    codes |= {
        json.loads(answer.rpartition(b"\r\n")[2])["error"]["code"]
        for answer in (connection._FULL, connection._NO_HTTP)
    }
    assert len(codes) > 20
    assert codes <= listed


def test_head_answers_as_get_does_without_the_body(parts: Any) -> None:
    job = parts.client.post("/v1/jobs", json={"prompt": "x", "size": "64x64", "steps": 1}).json()["id"]
    image = parts.draw(response_format="url").json()["data"][0]["url"]
    known = {"/v1/models/{model}": "/v1/models/pocket", "/v1/jobs/{job_id}": f"/v1/jobs/{job}"}
    known |= {"/v1/pictures/{name}": image.removeprefix("http://127.0.0.1")}
    templates = [path for path, methods in parts.app.openapi()["paths"].items() if "get" in methods]
    assert {*templates} >= {*known}
    for path in [*(known.get(template, template) for template in templates), "/openapi.json", "/v1/none"]:
        got, head = parts.client.get(path), parts.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        if path != "/metrics":  # which counts these requests
            assert head.headers["Content-Length"] == str(len(got.content))
    assert parts.client.head("/v1/images/generations").status_code == 405
    figures = parts.client.get("/metrics").text
    assert 'sana_http_requests_total{method="HEAD",route="/v1/models",status="200"} 1.0' in figures


def test_head_needs_a_key_where_get_does(make_parts: Make) -> None:
    assert make_parts(local=False).client.head("/v1/models").status_code == 401


def test_our_own_mistake_tells_the_client_only_an_id_which_the_log_explains(
    parts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Any, prompt: str, *__: Any, **___: Any) -> None:
        raise RuntimeError(f"the foreign message tells of {prompt}")

    monkeypatch.setattr(parts.engine, "check", broken)
    answer = parts.draw(prompt="my secret prompt")
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["X-Request-Id"] in answer.text
    assert answer.headers["X-Request-Id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert "in broken" in caplog.text
    assert "secret" not in "".join(record.getMessage() for record in caplog.records)


def test_a_database_that_is_gone_is_503_and_not_ready(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise StorageError("/secret/place is gone")

    monkeypatch.setattr(parts.jobs, "ping", gone)
    monkeypatch.setattr(parts.jobs, "list", gone)
    for path in ("/ready", "/v1/jobs"):
        answer = parts.client.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (503, "storage")
        assert "secret" not in answer.text
        assert int(answer.headers["Retry-After"]) > 0
    assert parts.client.get("/health").json() == {"status": "ok"}


def test_while_draining_nothing_new_is_taken(parts: Any) -> None:
    parts.draining.set()
    assert parts.client.get("/health").status_code == 200
    for answer in (
        parts.client.get("/ready"),
        parts.draw(),
        parts.client.post("/v1/jobs", json={"prompt": "x"}),
    ):
        assert (answer.status_code, error_of(answer)["code"]) == (503, "closing")


def test_headers_are_safe_and_tell_no_version(parts: Any) -> None:
    for path in ("/v1/models", "/nothing", "/v1/nothing"):
        headers = parts.client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Request-Id"].startswith("req_")
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_pages_of_other_origins_may_not_call_unless_they_are_named(make_parts: Make) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    closed = make_parts().client
    assert (
        "access-control-allow-origin" not in closed.options("/v1/images/generations", headers=asked).headers
    )
    answer = closed.get("/v1/models", headers={"Origin": "https://app.example"})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "foreign_origin")
    for odd in ("null", "http://[::1", ""):
        assert closed.get("/v1/models", headers={"Origin": odd}).status_code == 403
    assert closed.get("/v1/models", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    opened = make_parts(origins=("https://app.example",)).client
    preflight = opened.options("/v1/images/generations", headers=asked)
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert opened.get("/v1/models", headers={"Origin": "https://app.example"}).status_code == 200
    assert opened.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_the_figures_count_what_happened(parts: Any) -> None:
    before, failed_steps = (parts.engine.stats()[name] for name in ("pictures", "failed_steps"))
    parts.draw(n=2)
    parts.client.get("/v1/none-such-1")
    parts.client.get("/v1/none-such-2")
    text = parts.client.get("/metrics").text
    assert 'sana_http_requests_total{method="POST",route="/v1/images/generations",status="200"} 1.0' in text
    assert 'sana_http_requests_total{method="GET",route="other",status="404"} 2.0' in text
    assert "none-such" not in text
    assert f"sana_engine_pictures_total {before + 2:.1f}" in text
    assert "sana_engine_waiting 0.0" in text
    assert f"sana_engine_failed_steps_total {failed_steps:.1f}" in text
    assert 'sana_jobs{status="queued"} 0.0' in text
    assert "sana_http_request_seconds_bucket" in text


def test_the_figures_can_be_switched_off(make_parts: Make) -> None:
    assert make_parts(metrics=False).client.get("/metrics").status_code == 404


@pytest.mark.parametrize("as_json", [False, True])
def test_each_request_is_one_line_in_the_log_without_its_prompt(
    make_parts: Make, caplog: pytest.LogCaptureFixture, as_json: bool
) -> None:
    caplog.set_level(logging.INFO, "sanakit")
    make_parts(json_log=as_json).draw(prompt="an apple nobody may know of")
    lines = [record.getMessage() for record in caplog.records if record.name == "sanakit.serve.requests"]
    assert len(lines) == 1
    assert "nobody may know" not in caplog.text
    if as_json:
        assert json.loads(lines[0])["status"] == 200
    else:
        assert " POST /v1/images/generations 200 " in lines[0]


def test_prompts_are_logged_when_that_is_asked_for(
    make_parts: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sanakit")
    make_parts(log_prompts=True).draw(prompt="an apple\nfor all to see")
    assert "'an apple\\nfor all to see'" in caplog.text


def test_an_address_writes_no_lines_of_its_own_into_the_log(
    parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sanakit")
    parts.client.get("/v1/x%0a2026-01-01 POST /v1/forged")
    assert all("\n" not in record.getMessage() for record in caplog.records)
