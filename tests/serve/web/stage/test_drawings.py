"""A series of drawings: checked before the first, cancelled as a whole, charged image by image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.history import SHARED, History
from sanakit.serve.web.stage.drawings import VisitorDrawings
from sanakit.serve.web.studio import Studio, View
from tests.serve.web.drawing import VISITOR, small


def drawings(engine: Engine, history: History, charge: Callable[..., Any] | None = None) -> VisitorDrawings:
    return VisitorDrawings(Studio(engine, history), private=False, charge=charge)


def all_views(made: VisitorDrawings, wishes: list[Any], visitor: Any = VISITOR) -> list[View]:
    async def follow() -> list[View]:
        return [view async for view in made.series(visitor, wishes)]

    return asyncio.run(follow())


def test_a_series_is_drawn_in_order_and_tells_how_far_it_is(engine: Engine, history: History) -> None:
    wishes = [small(seed=str(seed)) for seed in (5, 6, 7)]
    views = all_views(drawings(engine, history), wishes)
    assert [view.done for view in views[1:-1]] == sorted(view.done for view in views[1:-1])
    assert any(view.message.startswith("Image 2 of 3: Step") for view in views)
    assert views[-1].state == "done"
    assert [history.metadata(SHARED, name)["seed"] for name in views[-1].names] == [5, 6, 7]


def test_one_wrong_wish_is_told_before_anything_is_drawn(engine: Engine, history: History) -> None:
    (waiting, failed) = all_views(drawings(engine, history), [small(), small(width=63)])
    assert (waiting.state, failed.state) == ("waiting", "failed")
    assert failed.message.startswith("Image 2 of 2: ")
    assert history.names(SHARED) == []


def test_a_cancel_ends_the_series_and_keeps_what_was_drawn(engine: Engine, history: History) -> None:
    made = drawings(engine, history)

    async def cancelled() -> list[View]:
        views = []
        async for view in made.series(
            VISITOR, [small(seed="1"), small(seed="2", steps=900), small(seed="3")]
        ):
            views.append(view)
            assert made.is_drawing(VISITOR)
            if view.message.startswith("Image 2 of 3: Step"):
                made.cancel(VISITOR)
        return views

    views = asyncio.run(cancelled())
    assert views[-1].state == "stopped"
    assert len(views[-1].names) == len(history.names(SHARED)) == 1
    assert not made.is_drawing(VISITOR)


def test_a_cancel_between_two_images_counts(engine: Engine, history: History) -> None:
    made = drawings(engine, history)
    seen = 0

    async def cancelled() -> View:
        nonlocal seen
        last = View(state="", message="")
        async for last in made.series(VISITOR, [small(), small()]):
            if last.state == "waiting":  # nothing is in the engine yet
                made.cancel(VISITOR)
        return last

    assert asyncio.run(cancelled()).state == "stopped"
    assert history.names(SHARED) == []


def test_each_image_is_charged_and_what_was_not_drawn_is_not(engine: Engine, history: History) -> None:
    ledger: list[int] = []

    def charge(name: str, count: int) -> Callable[[], None]:
        ledger.append(count)
        return lambda: ledger.append(-count)

    ann = SimpleNamespace(session_hash="tab-1", username="ann")
    made = drawings(engine, history, charge)
    all_views(made, [small(), small()], ann)
    assert ledger == [1, 1]
    all_views(made, [small(), replace(small(), steps=0)], ann)
    assert ledger == [1, 1]
    assert len(history.names("user ann")) == 2
