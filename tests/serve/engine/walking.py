"""Walks in a tiny world, drawn by an engine."""

from __future__ import annotations

from typing import Any

from sanakit.serve.engine.walk import Walk, WalkMoment
from sanakit.serve.engine.world_engine import WorldEngine
from tests.pipelines.world.tiny import photo

WAIT = 60  # seconds that nothing here should take
CALLED: dict[str, Any] = {"fov": 60.0, "seed": 5, "image_format": "PNG"}


def enter(engine: WorldEngine, owner: str | None = None, **settings: Any) -> Walk:
    request = engine.check(photo(96, 64), "a red apple", **(CALLED | settings))
    return engine.enter(request, owner).result(WAIT)


def go(engine: WorldEngine, walk: Walk, before: int, move: Any, seed: int | None = None) -> list[bytes]:
    """Draw a move; its frames, as they were told."""
    told: list[bytes] = []
    for chunk in walk.split(before, move, seed):
        moment: WalkMoment = engine.draw(walk, chunk, before, told.append).result(WAIT)
        before = moment.number
    return told


def recorded(walk: Walk, moment: int) -> list[bytes]:
    return [walk.recording.read(number) for number in walk.recorded(moment)]
