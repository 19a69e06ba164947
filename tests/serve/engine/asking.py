"""Small requests of an engine, and what they draw."""

from __future__ import annotations

import numpy as np

from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.ticket import Ticket

WAIT = 60  # seconds that nothing here should take
TOLERANCE = 2  # of 255
SMALL = {"width": 64, "height": 64, "binned": False}  # as it is, though the model did not learn it


def draw(engine: Engine, prompt: str = "a red apple", **settings) -> Ticket:
    own = SMALL | {"steps": 2, "seed": 1} | settings
    told = {name: own.pop(name) for name in ("on_event", "previews", "deadline") if name in own}
    return engine.submit(engine.check(None, prompt, **own), **told)


def picture(ticket: Ticket, number: int = 0) -> np.ndarray:
    return np.asarray(ticket.result(WAIT).images[number]).astype(int)
