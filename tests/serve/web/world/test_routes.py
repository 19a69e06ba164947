"""The page's walks over HTTP: reached by their name alone, paid for by the login that entered them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("gradio")

from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.web.mount import add_page, build_page
from sanakit.serve.web.world.routes import OWNER
from tests.serve.engine.walking import enter
from tests.serve.http.worlds.asking import frames


@pytest.fixture
def parts(make_parts: Any, world_engine: WorldEngine, tmp_path: Any, monkeypatch: Any) -> Any:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir(mode=0o700)
    made = make_parts(worlds=world_engine)
    add_page(made.app, tmp_path / "page")
    return made


def test_a_walk_of_the_page_moves_without_a_key_by_its_name(parts: Any, world_engine: WorldEngine) -> None:
    walk = enter(world_engine, OWNER)
    key = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=1)}"}
    answer = parts.client.post(f"/walks/{walk.id}/moves", json={"keys": "w"})
    assert len(frames(parts, answer)) == 8
    assert parts.client.get(f"/v1/worlds/{walk.id}", headers=key).status_code == 404, "it is no key's"
    assert parts.client.get("/walks/walk_of_nobody").json()["error"]["code"] == "walk_not_found"
    foreign = {"Host": "rebound.example"}, {"Origin": "http://elsewhere"}
    for headers in foreign:
        answer = parts.client.post(f"/walks/{walk.id}/moves", json={"keys": "w"}, headers=headers)
        assert answer.status_code == (403 if "Origin" in headers else 200), (
            "there is a key, which guards names"
        )
    walk.payer = "ann"
    assert parts.client.post(f"/walks/{walk.id}/moves", json={"keys": "w"}).status_code == 200
    assert parts.client.post(f"/walks/{walk.id}/moves", json={"keys": "w"}).status_code == 429
    parts.keys.revoke("ann")
    refused = parts.client.post(f"/walks/{walk.id}/moves", json={"keys": "w"})
    assert "This key was revoked" in refused.json()["error"]["message"]
    assert parts.client.delete(f"/walks/{walk.id}").status_code == 200


def test_scripts_are_served_and_the_schema_has_none_of_it(parts: Any) -> None:
    for name in ("world.js", "walk.js", "player.js"):
        answer = parts.client.get(f"/walks/{name}")
        assert answer.headers["content-type"].startswith("text/javascript")
        assert "export" in answer.text
    assert not [path for path in parts.client.get("/openapi.json").json()["paths"] if "walks" in path]


def test_the_tab_is_there_only_where_a_world_is_served(make_parts: Any, world_engine: WorldEngine) -> None:
    parts = make_parts()

    def modes(engine: Engine = parts.engine, **engines: Any) -> list[str]:
        blocks = build_page(engine, parts.store, **engines)
        found = [one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == "mode"]
        return [choice[0] for choice in found[0].choices]  # pyright: ignore[reportAttributeAccessIssue]

    assert modes() == ["Create", "Edit", "Gallery", "Live"]
    assert modes(worlds=world_engine) == ["Create", "Edit", "Gallery", "Live", "World"]
    assert modes(Engine([], device="cpu"), worlds=world_engine) == ["World"]
