"""The engine of worlds: how many walks there may be, when they end, what fails, and that memory is flat."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sanakit.errors import BusyError, ClosedError, MemoryLimitError, NumericsError, RefusedError, StoppedError
from sanakit.pipelines.world.live import LiveWorld
from sanakit.serve.engine.world_engine import WorldEngine
from tests.serve.engine.walking import WAIT, enter, go, recorded


@pytest.fixture
def make(walking_folder) -> Iterator[Callable[..., WorldEngine]]:
    engines: list[WorldEngine] = []

    def started(**settings: Any) -> WorldEngine:
        engines.append(WorldEngine(str(walking_folder), device="cpu", threads=1, **settings))
        engines[-1].start()
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


def test_there_are_only_so_many_walks_and_one_that_ends_makes_room(make) -> None:
    engine = make(max_walks=2)
    walks = [enter(engine, owner) for owner in ("a", "b")]
    with pytest.raises(BusyError, match="2 walks are under way"):
        enter(engine, "a")
    assert engine.find(walks[0].id, "b") is None
    assert engine.find(walks[0].id, "a") is walks[0]
    assert engine.walks("b") == [walks[1]]
    engine.end(walks[0])
    assert engine.find(walks[0].id, "a") is None
    assert enter(engine, "c").owner == "c"
    stats = engine.stats()
    assert (stats["walks"], stats["refused"], stats["waiting"]) == (2, 1, 0)


def test_a_walk_that_nobody_uses_ends_unless_it_moves(make) -> None:
    engine = make(max_walks=1, idle=1000)
    walk = enter(engine)
    walk.used -= 2000
    with walk.turn, pytest.raises(BusyError):
        enter(engine)
    other = enter(engine)
    assert engine.find(walk.id, None) is None
    with pytest.raises(StoppedError, match="has ended"):
        recorded(walk, 0)
    assert engine.find(other.id, None) is other


def test_a_memory_limit_holds_for_walks(make) -> None:
    with pytest.raises(MemoryLimitError, match="9 frames of 64x64 px do not fit in 1 MB"):
        make(memory="1MB")
    engine = make(memory="64GB")
    assert engine.find(enter(engine).id, None) is not None


def test_an_ended_walk_is_given_back_while_it_is_drawn(world_engine, monkeypatch) -> None:
    walk, move = enter(world_engine), LiveWorld.move

    def ending(live: LiveWorld, actions: str) -> Any:
        world_engine.end(walk)
        return move(live, actions)

    monkeypatch.setattr(LiveWorld, "move", ending)
    with pytest.raises(StoppedError, match="This walk has ended"):
        go(world_engine, walk, 0, "w-8")
    assert walk.kept == []
    assert world_engine.alive


def test_a_chunk_that_fails_leaves_the_walk_where_it_was(world_engine, monkeypatch) -> None:
    walk = enter(world_engine)
    first = go(world_engine, walk, 0, "w-8")

    def failing(live: LiveWorld, actions: str) -> Any:
        raise NumericsError("The decoded frames became NaN.")

    with monkeypatch.context() as patch:
        patch.setattr(LiveWorld, "move", failing)
        with pytest.raises(NumericsError):
            go(world_engine, walk, 1, "w-8")
    assert (walk.at, len(walk.moments)) == (1, 2)
    assert go(world_engine, walk, 0, "w-8") == first


def test_filters_see_the_prompt_and_every_frame_before_it_is_told(make) -> None:
    seen: list[Any] = []

    def refusing(images: Any, name: str) -> None:
        seen.append(len(images))
        if len(seen) == 2:
            raise RefusedError("The safety filter refused it.")

    engine = make(image_filter=refusing, prompt_filter=lambda prompts, name: seen.append(prompts))
    with pytest.raises(RefusedError):
        enter(engine)
    assert seen == [["a red apple"], 1]
    assert engine.stats()["walks"] == 0
    seen[:] = [0, 0]
    walk, told = enter(engine), []
    seen[:] = [0]
    with pytest.raises(RefusedError):
        engine.draw(walk, walk.split(0, "w-8")[0], 0, told.append).result(WAIT)
    assert (told, len(walk.moments)) == ([], 1)


def test_closing_fails_what_waits_and_takes_no_more(make) -> None:
    engine = make()
    walk = enter(engine)
    tickets = [engine.draw(walk, walk.split(0, "w-8")[0], 0) for _ in range(3)]
    engine.close()
    with pytest.raises(ClosedError):
        tickets[-1].result(WAIT)
    for act in (lambda: enter(engine), lambda: engine.draw(walk, walk.split(0, "w-8")[0], 0)):
        with pytest.raises(ClosedError):
            act()
    assert not engine.alive
    assert walk.ended


@pytest.mark.usefixtures("own_objects")
def test_memory_is_flat_over_many_chunks(world_engine) -> None:
    """All tensors that are made here, and the states of the walk."""
    walk = enter(world_engine)

    def held() -> int:
        gc.collect()
        found = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in found}
        return sum(size for size in storages.values() if size > 1000)

    go(world_engine, walk, 0, "wd-24")
    before = held()
    go(world_engine, walk, walk.at, "wd-32")
    assert held() == before
    assert walk.kept == [6, 7]
    assert len(recorded(walk, walk.at)) == 1 + 7 * 8


def test_walks_take_turns_chunk_by_chunk(world_engine) -> None:
    one, two = enter(world_engine), enter(world_engine)
    order: list[str] = []
    tickets = []
    for _ in range(2):
        for name, walk in (("one", one), ("two", two)):
            told = lambda event, name=name: order.append(name)  # noqa: E731
            tickets.append(world_engine.draw(walk, walk.split(0, "w-8")[0], 0, None, told))
    for ticket in tickets:
        ticket.result(WAIT)
    until = time.monotonic() + WAIT
    while len(order) < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert order == ["one", "two"] * 2
