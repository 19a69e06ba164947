"""The door of the page beside the API: by which names it answers, and when it wants a login."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sanakit.cli import main

pytest.importorskip("gradio")

from sanakit.serve.web.mount import UPLOADS, add_page, build_page


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page sets this variable; it is as before at the end of the test."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir(mode=0o700)


def test_beside_the_api_both_answer_and_foreign_names_are_refused(
    make_parts: Callable[..., Any], tmp_path: Path
) -> None:
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    assert parts.client.get("/v1/models").json()["data"][0]["id"] == "pocket"
    assert "sanakit" in parts.client.get("/").text
    for path in ("/", "/config", "/healthy", "/gradio_api/info", "/v1/models"):
        answer = parts.client.get(path, headers={"Host": "rebound.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_host")
    for path in ("/health", "/ready", "/metrics"):
        assert parts.client.get(path, headers={"Host": "10.0.0.7"}).status_code == 200


def test_beside_the_page_the_api_says_no_as_it_does_alone(
    make_parts: Callable[..., Any], tmp_path: Path
) -> None:
    alone, beside = make_parts(), make_parts()
    add_page(beside.app, tmp_path / "page")
    for method, path, status, allowed in (
        ("GET", "/v1/nowhere", 404, None),
        ("GET", "/v1/", 404, None),
        ("POST", "/v1/images/variations", 404, None),
        ("GET", "/v1/images/generations", 405, "POST"),
        ("TRACE", "/v1/models", 405, "GET"),
        ("DELETE", "/v1/models/pocket", 405, "GET"),
        ("POST", "/health", 405, "GET"),
        ("PUT", "/metrics", 405, "GET"),
    ):
        answers = [parts.client.request(method, path) for parts in (alone, beside)]
        for answer in answers:
            assert (answer.status_code, answer.headers.get("allow")) == (status, allowed), path
        assert answers[0].json() == answers[1].json()
        assert answers[0].json()["error"]["code"] == {404: "not_found", 405: "method_not_allowed"}[status]


def test_a_key_that_is_made_later_locks_the_page_too_and_opens_it_by_any_name(
    make_parts: Callable[..., Any], tmp_path: Path
) -> None:
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    assert parts.client.get("/config").status_code == 200
    token = parts.keys.create("ann")
    assert parts.client.get("/config").status_code == 401
    client = TestClient(parts.app, base_url="http://draw.example")
    assert "auth_required" in client.get("/").text
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.post("/login", data={"username": "ann", "password": token}).status_code == 200
    assert client.get("/config").status_code == 200


def test_with_no_auth_the_page_opens_by_any_name_and_each_tab_is_private(
    make_parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts, private = make_parts(no_auth=True), []
    monkeypatch.setattr(
        "sanakit.serve.web.mount.build_page",
        lambda *args, **options: private.append(options["private"]) or build_page(*args, **options),
    )
    add_page(parts.app, tmp_path / "page")
    parts.keys.create("ann")
    assert parts.client.get("/config", headers={"Host": "draw.example"}).status_code == 200
    assert private == [True]


def test_where_a_key_is_needed_the_page_has_a_login(make_parts: Callable[..., Any], tmp_path: Path) -> None:
    parts = make_parts(local=False)
    token = parts.keys.create("ann", per_day=1)
    add_page(parts.app, tmp_path / "page")
    client = TestClient(parts.app, base_url="http://draw.example")
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "bob", "password": token}).status_code == 400
    assert client.post("/login", data={"username": "ann", "password": token}).status_code == 200
    assert client.get("/config").status_code == 200


def test_the_command_deletes_what_is_old_looks_at_pictures_and_offers_files_if_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr("sanakit.serve.server.serve", lambda settings, *_, **__: seen.append(settings))
    offered = ("--adapter", "ink=a.safetensors", "--control", "lines=./net")
    for options in (("--keep-days", "3", "--filter"), offered):
        with pytest.raises(SystemExit) as end:
            main(["ui", "--no-open", *options])
        assert not end.value.code
    assert [(one.keep_days, one.image_filter, one.door.previews) for one in seen] == [
        (3, True, False),
        (None, False, True),
    ]
    assert [(one.adapters, one.controls) for one in seen] == [
        ({}, {}),
        ({"ink": "a.safetensors"}, {"lines": "./net"}),
    ]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", ""])
def test_pages_of_other_origins_may_neither_upload_to_the_page_nor_use_it(
    make_parts: Callable[..., Any], tmp_path: Path, origin: str
) -> None:
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    foreign = {"Origin": origin}
    upload = {"files": ("a.png", b"x")}
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/login"):
        answer = parts.client.post(path, files=upload, headers=foreign)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    assert parts.client.get("/config", headers=foreign).status_code == 403
    assert not (tmp_path / "page" / UPLOADS).exists()
    own = {"Origin": "http://127.0.0.1"}
    assert parts.client.post("/gradio_api/upload", files=upload, headers=own).status_code == 200
    assert parts.client.post("/gradio_api/upload", files=upload).status_code == 200


def test_an_origin_that_may_call_the_api_may_use_the_page(
    make_parts: Callable[..., Any], tmp_path: Path
) -> None:
    parts = make_parts(origins=("https://app.example",))
    add_page(parts.app, tmp_path / "page")
    assert parts.client.get("/config", headers={"Origin": "https://app.example"}).status_code == 200
    assert parts.client.get("/config", headers={"Origin": "https://evil.example"}).status_code == 403


def test_uploads_lie_in_the_servers_own_folder(make_parts: Callable[..., Any], tmp_path: Path) -> None:
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    [path] = parts.client.post("/gradio_api/upload", files={"files": ("a.png", b"x")}).json()
    assert Path(path).is_relative_to(tmp_path / "page" / UPLOADS)
    assert Path(path).read_bytes() == b"x"
