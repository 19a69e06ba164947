"""The door of the page beside the API: by which names it answers, and when it wants a login."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sanakit.cli import main

pytest.importorskip("gradio")

from sanakit.serve.web.mount import add_page, build_page


def test_beside_the_api_both_answer_and_foreign_names_are_refused(make_parts: Callable[..., Any]) -> None:
    parts = make_parts()
    add_page(parts.app)
    assert parts.client.get("/v1/models").json()["data"][0]["id"] == "pocket"
    assert "sanakit" in parts.client.get("/").text
    for path in ("/", "/config", "/healthy", "/gradio_api/info", "/v1/models"):
        answer = parts.client.get(path, headers={"Host": "rebound.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_host")
    for path in ("/health", "/ready", "/metrics"):
        assert parts.client.get(path, headers={"Host": "10.0.0.7"}).status_code == 200


def test_a_key_that_is_made_later_locks_the_page_too_and_opens_it_by_any_name(
    make_parts: Callable[..., Any],
) -> None:
    parts = make_parts()
    add_page(parts.app)
    assert parts.client.get("/config").status_code == 200
    token = parts.keys.create("ann")
    assert parts.client.get("/config").status_code == 401
    client = TestClient(parts.app, base_url="http://draw.example")
    assert "auth_required" in client.get("/").text
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.post("/login", data={"username": "ann", "password": token}).status_code == 200
    assert client.get("/config").status_code == 200


def test_with_no_auth_the_page_opens_by_any_name_and_each_tab_is_private(
    make_parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, private = make_parts(no_auth=True), []
    monkeypatch.setattr(
        "sanakit.serve.web.mount.build_page",
        lambda *args, **options: private.append(options["private"]) or build_page(*args, **options),
    )
    add_page(parts.app)
    parts.keys.create("ann")
    assert parts.client.get("/config", headers={"Host": "draw.example"}).status_code == 200
    assert private == [True]


def test_where_a_key_is_needed_the_page_has_a_login(make_parts: Callable[..., Any]) -> None:
    parts = make_parts(local=False)
    token = parts.keys.create("ann", per_day=1)
    add_page(parts.app)
    client = TestClient(parts.app, base_url="http://draw.example")
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "bob", "password": token}).status_code == 400
    assert client.post("/login", data={"username": "ann", "password": token}).status_code == 200
    assert client.get("/config").status_code == 200


def test_the_command_deletes_what_is_old_and_looks_at_pictures_if_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr("sanakit.serve.server.serve", lambda settings, *_, **__: seen.append(settings))
    for options in (("--keep-days", "3", "--filter"), ()):
        with pytest.raises(SystemExit) as end:
            main(["ui", "--no-open", *options])
        assert not end.value.code
    assert [(one.keep_days, one.image_filter, one.door.previews) for one in seen] == [
        (3, True, False),
        (None, False, True),
    ]
