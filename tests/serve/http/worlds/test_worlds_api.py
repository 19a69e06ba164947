"""Walks over HTTP from entering to the clip: what is sent, kept, replayed, and whose it is."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from sanakit.clips.reading import open_clip
from sanakit.pipelines.world.paths import read_path
from sanakit.serve.http.worlds import worlds_api
from tests.serve.http.worlds.asking import enter, frames, moments, move, post


def test_a_walk_streams_frames_and_two_branches_are_the_same_bits(parts: Any) -> None:
    walk = enter(parts)
    assert (walk["model"], walk["chunk_frames"], walk["at"]) == ("tiny-world", 8, 0)
    assert (walk["width"], walk["height"], walk["settings"]["seed"]) == (64, 64, 5)
    assert any("is cut to the shape of 64x64 px" in note for note in walk["warnings"])
    first = move(parts, walk, keys="w")
    assert [name for name, _ in parts.events(first)] == ["world.frame"] * 8 + ["world.moment"]
    assert Image.open(io.BytesIO(frames(parts, first)[0])).size == (64, 64)
    left, right = (move(parts, walk, keys=keys, before=1) for keys in "ad")
    assert frames(parts, left) != frames(parts, right)
    again = [move(parts, walk, actions=f"{keys}-8", before=1) for keys in "ad"]
    assert [frames(parts, one) for one in again] == [frames(parts, left), frames(parts, right)]
    (moment,) = moments(parts, again[1])
    assert (moment["number"], moment["before"], moment["frames"], moment["actions"]) == (5, 1, 17, "d-8")
    address = f"/v1/worlds/{walk['id']}"
    assert parts.client.get(address).json()["actions"] == "w-8,d-8"
    tree = parts.client.get(f"{address}/moments").json()["data"]
    assert [one["before"] for one in tree] == [None, 0, 1, 1, 1, 1]
    replayed = parts.client.get(f"{address}/frames", params={"moment": 2})
    assert frames(parts, replayed)[1:] == frames(parts, first) + frames(parts, left)
    poses = [data["pose"] for name, data in parts.events(replayed) if name == "world.frame"]
    assert poses[0] == np.eye(4).tolist()
    assert poses[-1] == tree[2]["pose"] == parts.events(left)[-2][1]["pose"]
    shown = parts.client.get(f"{address}/moments/2/frame")
    assert (shown.headers["content-type"], shown.content) == ("image/png", frames(parts, left)[-1])


def test_path_and_clip_are_those_of_a_moment(parts: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(worlds_api, "usual_format", lambda: "webp")
    walk = enter(parts)
    move(parts, walk, actions="w-16")
    address = f"/v1/worlds/{walk['id']}"
    answer = parts.client.get(f"{address}/path", params={"moment": 1})
    assert answer.headers["content-disposition"] == 'attachment; filename="path.json"'
    (tmp_path / "path.json").write_bytes(answer.content)
    path = read_path(tmp_path / "path.json")
    assert (path.width, path.height, len(path.poses)) == (96, 64, 9)
    clip = parts.client.get(f"{address}/clip")
    assert clip.headers["content-type"] == "image/webp"
    (tmp_path / "walk.webp").write_bytes(clip.content)
    with open_clip(tmp_path / "walk.webp") as file:
        found = file.read()
    assert found.frames.shape == (17, 64, 64, 3)
    assert (found.settings["path"], found.settings["seed"]) == ("w-16", 5)
    part = parts.client.get(f"{address}/clip", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")


def test_a_walk_is_its_keys_alone_and_counts_for_its_limits(parts: Any) -> None:
    parts.client.headers.pop("Authorization", None)
    keys = {name: parts.keys.create(name, per_day=limit) for name, limit in (("ann", 3), ("bob", None))}
    ann, bob = ({"Authorization": f"Bearer {keys[name]}"} for name in ("ann", "bob"))
    assert post(parts).status_code == 401
    walk = post(parts, ann).json()
    address = f"/v1/worlds/{walk['id']}"
    assert move(parts, walk, ann, actions="w-24").status_code == 429, "more than its day has left"
    assert moments(parts, move(parts, walk, ann, actions="w-16"))[-1]["number"] == 2
    assert move(parts, walk, ann, keys="w").status_code == 429
    for method, place in (("GET", ""), ("GET", "/frames"), ("GET", "/clip"), ("DELETE", "")):
        answer = parts.client.request(method, address + place, headers=bob)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "walk_not_found")
    assert parts.client.get("/v1/worlds", headers=bob).json()["data"] == []
    assert [one["id"] for one in parts.client.get("/v1/worlds", headers=ann).json()["data"]] == [walk["id"]]
    assert parts.client.delete(address, headers=ann).json()["deleted"] is True
    assert parts.client.get(address, headers=ann).status_code == 404


def test_a_walk_that_is_refused_is_not_charged(parts: Any, monkeypatch: Any) -> None:
    key = parts.keys.create("ann", per_day=2)
    headers = {"Authorization": f"Bearer {key}"}
    monkeypatch.setattr(parts.worlds, "max_walks", 0)
    for _ in range(3):
        answer = post(parts, headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert "0 walks are under way" in answer.json()["error"]["message"]
    monkeypatch.setattr(parts.worlds, "max_walks", 1)
    assert post(parts, headers).status_code == 201


def test_a_stopping_server_takes_no_walk_and_no_move(parts: Any) -> None:
    walk = enter(parts)
    parts.draining.set()
    for answer in (post(parts), move(parts, walk, keys="w")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "closing")
    parts.draining.clear()
    assert move(parts, walk, keys="w", frames="last").status_code == 200


def test_models_readiness_figures_and_schema_know_worlds(parts: Any, make_parts: Any) -> None:
    cards = parts.client.get("/v1/models").json()["data"]
    assert [(card["id"], card["makes"]) for card in cards] == [("pocket", "images"), ("tiny-world", "worlds")]
    assert parts.client.get("/v1/models/tiny-world").json()["defaults"]["size"] == "64x64"
    assert parts.client.get("/ready").status_code == 200
    assert "sana_world_engine_chunks_total" in parts.client.get("/metrics").text
    schema = parts.client.get("/openapi.json").json()
    assert schema["components"]["schemas"]["WalkForm"]["required"] == ["image"]
    events = json.dumps(schema["paths"]["/v1/worlds/{walk_id}/moves"]["post"]["responses"]["200"])
    assert "WorldFrameEvent" in events
    assert make_parts().client.post("/v1/worlds").status_code == 404, "there is no such route without one"


def test_a_moment_that_is_not_there_is_told(parts: Any) -> None:
    address = f"/v1/worlds/{enter(parts)['id']}"
    for moment in ("7", "-1", "x"):
        for place in ("frames", "path", "clip", "moments"):
            rest = f"moments/{moment}/frame" if place == "moments" else f"{place}?moment={moment}"
            answer = parts.client.get(f"{address}/{rest}")
            assert (answer.status_code, "moment" in answer.json()["error"]["message"]) == (400, True), rest
