"""Moves as streams: one at a time, errors by status or event, and clients that leave."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sanakit.errors import NumericsError, RefusedError
from sanakit.pipelines.world.live import LiveWorld
from sanakit.serve.http.worlds.moving import Move
from sanakit.serve.jobs.database import now
from tests.serve.http.worlds.asking import enter, frames, moments, move, post

WAIT = 60  # seconds that nothing here should take


def test_the_last_frames_alone_are_sent_where_they_are_asked_for(parts: Any) -> None:
    walk = enter(parts)
    answer = move(parts, walk, actions="w-16", frames="last")
    names = [name for name, _ in parts.events(answer)]
    assert names == ["world.frame", "world.moment"] * 2
    assert [data["frame"] for name, data in parts.events(answer) if name == "world.frame"] == [8, 16]
    replayed = frames(parts, parts.client.get(f"/v1/worlds/{walk['id']}/frames"))
    assert [replayed[8], replayed[16]] == frames(parts, answer)


def test_a_walk_moves_once_at_a_time(parts: Any) -> None:
    walk = enter(parts)
    with parts.worlds.find(walk["id"], None).turn:
        answer = move(parts, walk, keys="w")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "walk_busy")
    assert moments(parts, move(parts, walk, keys="w"))[0]["number"] == 1


@pytest.mark.parametrize("failing", [1, 2])
def test_a_chunk_that_fails_is_a_status_at_first_and_an_event_later_and_is_not_charged(
    parts: Any, monkeypatch: Any, failing: int
) -> None:
    headers = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=4)}"}
    walk, calls, go = enter(parts, headers=headers), [], LiveWorld.move

    def move_or_fail(live: LiveWorld, actions: str) -> Any:
        calls.append(actions)
        if len(calls) == failing:
            raise NumericsError("The decoded frames became NaN.")
        return go(live, actions)

    monkeypatch.setattr(LiveWorld, "move", move_or_fail)
    answer = move(parts, walk, headers, actions="w-24")
    if failing == 1:
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "numerics")
    else:
        assert answer.status_code == 200
        name, data = parts.events(answer)[-1]
        assert (name, data["error"]["code"]) == ("error", "numerics")
    assert calls == ["w-8"] * failing
    key = parts.keys.list()[0]
    until = time.monotonic() + WAIT
    while (used := parts.keys.used(now().date()).get(key.id, 0)) != failing:
        assert time.monotonic() < until, f"{used} are charged: the image, and each chunk that was drawn"
        time.sleep(0.01)
    assert move(parts, walk, headers, keys="w").status_code == 200


def test_a_replay_that_fails_ends_with_an_event(parts: Any, monkeypatch: Any) -> None:
    walk = enter(parts)
    recording = parts.worlds.find(walk["id"], None).recording
    move(parts, walk, keys="w")
    read = type(recording).read

    def read_or_end(self: Any, number: int) -> bytes:
        if number == 3:
            recording.close()  # as when the walk is deleted meanwhile
        return read(self, number)

    monkeypatch.setattr(type(recording), "read", read_or_end)
    events = parts.events(parts.client.get(f"/v1/worlds/{walk['id']}/frames"))
    assert [name for name, _ in events] == ["world.frame"] * 3 + ["error"]
    assert "This walk has ended" in events[-1][1]["error"]["message"]


def test_a_frame_that_a_filter_refuses_is_not_sent_and_is_counted(parts: Any, monkeypatch: Any) -> None:
    walk = enter(parts)

    def refusing(images: Any, name: str) -> None:
        raise RefusedError("The safety filter refused an image.")

    with monkeypatch.context() as patch:
        patch.setattr(parts.worlds, "image_filter", refusing)
        for answer in (move(parts, walk, keys="w"), post(parts)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")
    assert "sana_filtered_total 2.0" in parts.client.get("/metrics").text
    assert moments(parts, move(parts, walk, keys="w"))[0]["number"] == 1


def test_a_client_that_leaves_ends_the_move_behind_the_chunk_that_is_drawn(
    parts: Any, monkeypatch: Any
) -> None:
    walk = enter(parts)
    closed, close = [], Move.close
    monkeypatch.setattr(Move, "close", lambda self: closed.append(1) or close(self))
    sent: list[dict[str, Any]] = []
    bodies = [b'{"actions": "w-80"}']

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        while len(sent) < 3:  # the head, and some of the first chunk
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path = f"/v1/worlds/{walk['id']}/moves"
    head = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"headers": head, "query_string": b"", "http_version": "1.1", "scheme": "http"}
    scope |= {"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"}}
    scope |= {"root_path": ""}
    asyncio.run(parts.app(scope, receive, send))
    assert closed
    found = parts.worlds.find(walk["id"], None)
    assert found.turn.acquire(timeout=WAIT)
    found.turn.release()
    assert len(found.moments) < 11
    assert moments(parts, move(parts, walk, keys="w", before=0))[0]["before"] == 0
