"""Bodies of moves, and what replies tell."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.http.worlds.asking import enter, moments, move

EYE = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"seed": 1}, "none of them came: send one of them"),
        ({"keys": "w", "actions": "w-8"}, "keys and actions came: send one of them"),
        ({"keys": "wq"}, "holds unknown keys (q)"),
        ({"actions": "w-4"}, "takes 4 frames: make them 8"),
        ({"actions": "w-8,d-"}, "is not an action"),
        ({"actions": ""}, "is not an action"),
        ({"poses": [EYE] * 3}, "takes 3 frames"),
        ({"poses": [EYE[:3]] * 8}, "poses"),
        ({"poses": [[[2.0, 0, 0, 0], *EYE[1:]]] * 8}, "is not a rotation"),
        ({"keys": "w", "before": 3}, "no moment 3"),
        ({"keys": "w", "seed": -1}, "seed"),
        ({"keys": "w", "frame": "last"}, "Unknown field 'frame'"),
        ({"keys": "w", "frames": "none"}, "frames"),
    ],
)
def test_a_wrong_move_is_told_and_the_walk_goes_on(parts: Any, body: dict[str, Any], sentence: str) -> None:
    walk = enter(parts)
    answer = move(parts, walk, **body)
    assert (answer.status_code, sentence in answer.json()["error"]["message"]) == (400, True), answer.text
    assert parts.client.get(f"/v1/worlds/{walk['id']}").json()["moments"] == 1
    assert parts.worlds.find(walk["id"], None).turn.acquire(blocking=False), "its turn was given back"


def test_standing_still_poses_and_other_futures_are_moments(parts: Any) -> None:
    walk = enter(parts)
    (still,) = moments(parts, move(parts, walk, keys=""))
    assert (still["actions"], still["pose"]) == ("none-8", EYE)
    (posed,) = moments(parts, move(parts, walk, poses=[EYE] * 8, seed=9))
    assert (posed["actions"], posed["seed"], posed["before"]) == (None, 9, 1)
    assert parts.client.get(f"/v1/worlds/{walk['id']}").json()["actions"] is None
