"""Entering a world on the page: what the stage is told, what is refused, whose walk it is."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from sanakit.errors import SettingsError
from sanakit.serve.web.world.panel import STEP, TURN
from sanakit.serve.web.world.routes import OWNER
from sanakit.serve.web.world.tab import _ASKED, WorldTab
from tests.pipelines.world.tiny import photo

GIVEN: dict[str, Any] = {
    "image": photo(96, 64),
    "prompt": "a red apple",
    "fov": 60,
    "size": "Own  64 × 64",
    "keys": TURN,
    "seed": "7",
    "keep_seed": True,
    "drawn_seed": "",
    "negative_prompt": "",
    "prompt_weights": False,
    "steps": 1,
    "guidance": 1,
}


def visitor(session: str = "tab-1", username: str | None = None) -> Any:
    return SimpleNamespace(session_hash=session, username=username)


def enter(tab: WorldTab, who: Any = None, **given: Any) -> list[dict[Any, Any]]:
    values = GIVEN | given

    async def follow() -> list[dict[Any, Any]]:
        return [one async for one in tab.enter(who or visitor(), *(values[name] for name in _ASKED))]

    return asyncio.run(follow())


def test_a_walk_is_told_to_the_stage_and_takes_the_place_of_the_last(tab: Any) -> None:
    begun, done = enter(tab, keys=STEP)
    assert begun[tab.panel.walk] == ""
    told = json.loads(done[tab.panel.walk])
    assert (told["settings"]["seed"], told["settings"]["keys"], told["settings"]["fov"]) == (
        7,
        "strafing",
        60,
    )
    assert done[tab.panel.seed] == "7"
    walk = tab.worlds.find(told["id"], OWNER)
    assert (walk.payer, tab.worlds.find(told["id"], None)) == (None, None)
    second = json.loads(enter(tab)[-1][tab.panel.walk])
    assert tab.worlds.find(told["id"], OWNER) is None
    other = json.loads(enter(tab, visitor("tab-2"))[-1][tab.panel.walk])
    assert tab.worlds.find(second["id"], OWNER) is not None
    tab.cancel(visitor())
    assert tab.worlds.find(second["id"], OWNER) is None
    assert tab.worlds.find(other["id"], OWNER) is not None


@pytest.mark.parametrize(
    ("given", "sentence", "field"),
    [
        ({"image": None}, "Choose an image to walk into", "world-image"),
        ({"prompt": "(an apple", "prompt_weights": True}, "a ( without a )", "world-prompt"),
        ({"fov": 10}, "from 25 to 120 degrees", "world-fov"),
        ({"size": "Own  65 × 64"}, "reload the page", "world-size"),
        ({"keys": "wasd"}, "reload the page", "world-dialect"),
        ({"seed": "minus one"}, "seed", "world-seed"),
    ],
)
def test_a_mistake_is_told_at_its_field_and_the_last_walk_stays(
    tab: Any, given: dict[str, Any], sentence: str, field: str
) -> None:
    kept = json.loads(enter(tab)[-1][tab.panel.walk])
    last = enter(tab, **given)[-1]
    assert sentence in last[tab.panel.status]
    assert f'data-state="failed" data-field="{field}"' in last[tab.panel.status]
    assert tab.panel.walk not in last
    assert tab.worlds.find(kept["id"], OWNER) is not None


def test_a_login_pays_and_gets_back_what_was_not_entered(tab: Any, monkeypatch: Any) -> None:
    paid: list[int] = []

    def charge(name: str, count: int) -> Any:
        if name == "poor":
            raise SettingsError("This key has no images left today.")
        paid.append(count)
        return lambda: paid.append(-count)

    tab.charge = charge
    assert "no images left" in enter(tab, visitor("a", "poor"))[-1][tab.panel.status]
    told = json.loads(enter(tab, visitor("b", "ann"))[-1][tab.panel.walk])
    assert (tab.worlds.find(told["id"], OWNER).payer, paid) == ("ann", [1])
    monkeypatch.setattr(tab.worlds, "max_walks", 0)
    assert "0 walks are under way" in enter(tab, visitor("c", "ann"))[-1][tab.panel.status]
    assert paid == [1, 1, -1]


def test_seeds_are_rolled_and_kept(tab: Any) -> None:
    assert tab.roll()[tab.panel.keep_seed] is True
    assert tab.typed_seed(" ")[tab.panel.keep_seed] is False
    again = enter(tab, seed="7", keep_seed=False, drawn_seed="7")[-1]
    assert again[tab.panel.seed] != "7"
