"""Drawing for the page: what is told on the way, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from PIL import Image

from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.history import SHARED, History
from sanakit.serve.web.studio import BEYOND, PAINTED, Edit, Studio, View
from tests.serve.web.drawing import draw, small


def test_previews_come_at_every_step_and_then_the_picture(engine: Engine, history: History) -> None:
    views = draw(Studio(engine, history), small(steps=4, num_images=2, seed="5"))
    assert views[0].state == "waiting"
    assert [view.done for view in views] == sorted(view.done for view in views)
    assert any(preview is not None for view in views if view.state == "drawing" for preview in view.previews)
    assert views[-1].state == "done"
    assert len(views[-1].names) == 2
    kept = [history.metadata(SHARED, name) for name in views[-1].names]
    assert [(one["seed"], one["prompt"]) for one in kept] == [(5, "a red apple"), (6, "a red apple")]


def test_cancel_stops_within_a_step_and_keeps_nothing(engine: Engine, history: History) -> None:
    studio = Studio(engine, history)

    async def begin_and_cancel() -> list[View]:
        views = []
        async for view in studio.draw("tab-1", SHARED, small(steps=1000)):
            if view.state == "drawing":
                studio.cancel("tab-2")  # somebody else's tab
                studio.cancel("tab-1")
            views.append(view)
        return views

    steps = engine.stats()["steps"]
    views = asyncio.run(begin_and_cancel())
    assert views[-1].state == "stopped"
    assert engine.stats()["steps"] - steps < 500
    assert history.names(SHARED) == []


def test_a_tab_that_goes_away_stops_its_drawing(engine: Engine, history: History) -> None:
    studio = Studio(engine, history)

    async def leave() -> None:
        async with contextlib.aclosing(studio.draw("tab-1", SHARED, small(steps=1000))) as views:
            async for view in views:
                if view.state == "drawing":
                    break

    stopped = engine.stats()["stopped"]
    asyncio.run(leave())
    draw(studio, small())  # whatever was before it is over
    assert engine.stats()["stopped"] == stopped + 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt": " "}, "Write what to draw"),
        ({"seed": "12a"}, "seed"),
        ({"seed": str(2**63)}, "seed"),
        ({"width": 63}, "64x64"),
        ({"num_images": 9}, "images"),
        ({"model": "nothing"}, "nothing"),
    ],
)
def test_mistakes_become_sentences(engine: Engine, history: History, settings: dict, sentence: str) -> None:
    last = draw(Studio(engine, history), small(**settings))[-1]
    assert last.state == "failed"
    assert sentence in last.message


def test_edits_begin_with_the_picture(engine: Engine, history: History) -> None:
    source, mask = Image.new("RGB", (96, 64), "white"), Image.new("L", (96, 64))
    mask.paste(255, (32, 16, 64, 48))
    studio = Studio(engine, history)
    edits = {
        (96, 64): [Edit(image=source), Edit(image=source, mask=mask, what=PAINTED, strength=1.0)],
        (128, 64): [Edit(image=source, what=BEYOND, margins=(32, 0, 0, 0))],
    }
    for size, several in edits.items():
        for edit in several:
            (name,) = draw(studio, small(), edit)[-1].names
            with Image.open(history.file(SHARED, name)) as result:
                assert result.size == size
    nothing_painted = Edit(image=source, mask=Image.new("L", (96, 64)), what=PAINTED)
    assert "Paint over" in draw(studio, small(), nothing_painted)[-1].message
    assert "margin" in draw(studio, small(), Edit(image=source, what=BEYOND))[-1].message
