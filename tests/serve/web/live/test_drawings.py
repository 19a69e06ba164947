"""Live drawing without a browser: the newest key wins, an older drawing ends within a step, others get on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from sanakit.errors import BusyError, SettingsError
from sanakit.models.sana import Sana
from sanakit.pipelines.request import Request
from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.live import drawings as live
from sanakit.serve.web.live.drawings import Frame, LiveDrawings

Check = Callable[[], Request]


def small(engine: Engine, prompt: str = "a red apple", **settings: Any) -> Check:
    chosen: dict[str, Any] = {"width": 64, "height": 64, "steps": 3, "seed": 0} | settings
    return lambda: engine.check(None, prompt, **chosen)


async def frames(drawings: LiveDrawings, number: int, check: Check, **how: Any) -> list[Frame]:
    return [frame async for frame in drawings.draw(how.pop("tab", "tab"), number, check, **how)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each step of the model has had."""
    steps: list[int] = []
    whole = Sana.velocity

    def velocity(self: Sana, latents: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        steps.append(len(latents))
        return whole(self, latents, *inputs, **options)

    monkeypatch.setattr(Sana, "velocity", velocity)
    return steps


def test_an_image_comes_after_every_step_and_is_the_one_that_the_engine_draws(engine: Engine) -> None:
    seen = asyncio.run(frames(LiveDrawings(engine), 0, small(engine)))
    assert [(frame.step, frame.total, frame.final) for frame in seen] == [
        (1, 3, False),
        (2, 3, False),
        (3, 3, True),
    ]
    alone = engine.submit(small(engine)()).result().images[0]
    assert seen[-1].image.tobytes() == alone.tobytes()
    assert all(earlier.seconds <= later.seconds for earlier, later in pairwise(seen))


def test_a_newer_key_ends_the_drawing_before_it_within_a_step(engine: Engine, counted: list[int]) -> None:
    drawings, most = LiveDrawings(engine), 100

    async def two_keys() -> tuple[list[Frame], list[Frame]]:
        older: list[Frame] = []
        first = drawings.draw("tab", 1, small(engine, steps=most))
        older.append(await anext(first))
        taken = len(counted)
        newer = await frames(drawings, 2, small(engine, "a blue cat", steps=2))
        assert len(counted) - taken <= 2 + 1  # those of the newer one, and the step that ran
        older += [frame async for frame in first]
        return older, newer

    older, newer = asyncio.run(two_keys())
    assert not any(frame.final for frame in older)
    assert newer[-1].final
    assert set(counted) == {counted[0]}  # the newer one never stepped together with the older one


def test_a_key_that_comes_late_is_not_drawn(engine: Engine, counted: list[int]) -> None:
    drawings = LiveDrawings(engine)

    async def backwards() -> None:
        assert (await frames(drawings, 5, small(engine)))[-1].final
        taken = len(counted)
        assert await frames(drawings, 4, small(engine)) == []
        assert await frames(drawings, 5, small(engine)) == []
        assert len(counted) == taken
        assert (await frames(drawings, 4, small(engine), tab="another"))[-1].final

    asyncio.run(backwards())


def test_of_a_burst_of_keys_the_last_alone_is_finished(engine: Engine) -> None:
    drawings, text = LiveDrawings(engine), "a red apple"

    async def burst() -> list[list[Frame]]:
        keys = (frames(drawings, n, small(engine, text[: n + 1], steps=8)) for n in range(len(text)))
        return await asyncio.gather(*keys)

    seen = asyncio.run(burst())
    assert [bool(one and one[-1].final) for one in seen] == [False] * (len(text) - 1) + [True]
    assert drawings.drawn("tab", len(text) - 1)[1]["prompt"] == text


def test_what_is_wrong_is_told_and_ends_what_was_drawn_before(engine: Engine) -> None:
    drawings = LiveDrawings(engine)

    async def wrong() -> list[Frame]:
        first = drawings.draw("tab", 1, small(engine, steps=100))
        await anext(first)
        with pytest.raises(SettingsError, match="steps"):
            await frames(drawings, 2, small(engine, steps=0))
        return [frame async for frame in first]

    assert not any(frame.final for frame in asyncio.run(wrong()))


def test_somebody_who_types_has_one_image_in_the_engine_and_others_are_finished(engine: Engine) -> None:
    drawings = LiveDrawings(engine)
    others = [engine.submit(small(engine, "a panda", seed=n, steps=6)()) for n in range(2)]

    async def types() -> list[int]:
        most = []
        for number in range(40):
            if all(other.done for other in others):
                break
            await anext(drawings.draw("tab", number, small(engine, steps=4, seed=number)))
            state = engine.stats()
            most.append(state["waiting"] + state["running"] - sum(not other.done for other in others))
        return most

    most = asyncio.run(types())
    assert [other.result(60).images[0].size for other in others] == [(64, 64)] * 2
    assert max(most) <= 2  # its image, and one that is being let go
    assert engine.submit(small(engine)()).result(60)


def test_a_full_queue_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise BusyError("64 images are already waiting: try again later.")

    monkeypatch.setattr(engine, "submit", full)
    with pytest.raises(BusyError, match="already waiting"):
        asyncio.run(frames(LiveDrawings(engine), 0, small(engine)))


def test_what_is_not_finished_is_not_charged(engine: Engine) -> None:
    drawings, charged, returned = LiveDrawings(engine), [], []

    def charge() -> Callable[[], None]:
        key = len(charged) + 1
        charged.append(key)
        return lambda: returned.append(key)

    async def keys() -> None:
        first = drawings.draw("tab", 1, small(engine, steps=50), charge)
        await anext(first)
        await frames(drawings, 2, small(engine), charge=charge)
        assert [frame async for frame in first if frame.final] == []
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(keys())
    assert (charged, returned) == ([1, 2], [1])


def test_a_visitor_who_leaves_takes_the_drawing_along(engine: Engine, counted: list[int]) -> None:
    drawings = LiveDrawings(engine)

    async def leave() -> None:
        first = drawings.draw("tab", 1, small(engine, steps=100))
        await anext(first)
        await first.aclose()

    asyncio.run(leave())
    assert engine.submit(small(engine)()).result(60)  # behind which nothing of it is left
    assert engine.stats()["running"] == engine.stats()["waiting"] == 0
    assert len(counted) < 100


def test_the_tabs_that_are_remembered_are_limited(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_TABS", 2)
    drawings = LiveDrawings(engine)

    async def visit() -> None:
        for tab in ("one", "two", "three"):
            await frames(drawings, 0, small(engine, steps=1), tab=tab)

    asyncio.run(visit())
    with pytest.raises(SettingsError, match="not there any more"):
        drawings.drawn("one", 0)
    assert drawings.drawn("three", 0)[0].size == (64, 64)
    with pytest.raises(SettingsError, match="not there any more"):
        drawings.drawn("three", 1)


def test_where_images_are_filtered_nothing_is_shown_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(engine, "image_filter", lambda images, ticket: looked.append(images))
    seen = asyncio.run(frames(LiveDrawings(engine), 0, small(engine)))
    assert [frame.final for frame in seen] == [True]
    assert len(looked) == 1
