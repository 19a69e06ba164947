"""Small wishes, drawn as the page draws them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from sanakit.serve.web.history import SHARED
from sanakit.serve.web.studio import Edit, Studio, View, Wish

SMALL = {"model": "pocket", "width": 64, "height": 64, "steps": 2, "guidance": 2.5, "solver": "dpm"}
METADATA: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "", "model": "pocket", "version": "0"}
METADATA |= {"width": 256, "height": 192, "steps": 7, "guidance": 3.5, "solver": "euler", "seed": 2**63 - 1}
# The residence of an engine without ControlNets and adapters.
UNSTEERED: Any = SimpleNamespace(controls={}, adapters={})


def draw(studio: Studio, wish: Wish, edit: Edit | None = None, room: str = SHARED) -> list[View]:
    async def follow() -> list[View]:
        return [view async for view in studio.draw("tab-1", room, wish, edit)]

    return asyncio.run(follow())


def small(prompt: str = "a red apple", **settings: Any) -> Wish:
    return Wish(**(SMALL | {"prompt": prompt} | settings))


# What the button sends: the panel's values, and the editor's.
VALUES = ["pocket", "a lemon", "Plain", "", 64, 64, 2, 2.5, "cfg", "dpm", "7", 1, False]
VALUES += [None, "Whole image", 0.6, 0, 0, 0, 0]
VISITOR: Any = SimpleNamespace(session_hash="tab-1", username=None)


def all_of(updates: AsyncIterator[dict]) -> list[dict]:
    """What an event's function yields, in order."""

    async def follow() -> list[dict]:
        return [update async for update in updates]

    return asyncio.run(follow())
