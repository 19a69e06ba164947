"""Draw from a kept image: variations of it, and the image larger."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from sanakit.images.opening import open_image
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.adapters import AdapterSliders
from sanakit.serve.web.kept.details import Details
from sanakit.serve.web.kept.variations import STRONG, SUBTLE, variation_of
from sanakit.serve.web.messages import tie
from sanakit.serve.web.settings import Wish, drawn_by
from sanakit.serve.web.stage.show import Showing
from sanakit.serve.web.studio import Edit

FACTOR = 2.0  # of the button that enlarges
Updates = dict[Any, Any]  # component -> its new value, or gr.update


class DrawnAgain:
    """The functions behind the buttons that draw from an image, one an event."""

    def __init__(self, engine: Engine, showing: Showing, adapters: AdapterSliders) -> None:
        self.engine, self.showing, self.adapters = engine, showing, adapters
        self.history = showing.drawings.history

    def tie(self, details: Details) -> None:
        """Tie the functions to an image's buttons."""
        asked = [self.showing.mode, details.shown, self.showing.panel.model]
        makes = {details.subtle: self.vary_subtly, details.strong: self.vary_strongly}
        for button, function in (makes | {details.enlarge: self.enlarge}).items():
            tie(button.click, function, asked, self.showing.changed, concurrency_limit=None)

    async def vary_subtly(
        self, visitor: gr.Request, mode: str, name: str, model: str
    ) -> AsyncIterator[Updates]:
        """Draw variations of an image that differ in details."""
        async for update in self._vary(visitor, mode, name, model, SUBTLE):
            yield update

    async def vary_strongly(
        self, visitor: gr.Request, mode: str, name: str, model: str
    ) -> AsyncIterator[Updates]:
        """Draw variations of an image that differ in colours and shapes."""
        async for update in self._vary(visitor, mode, name, model, STRONG):
            yield update

    async def enlarge(self, visitor: gr.Request, mode: str, name: str, model: str) -> AsyncIterator[Updates]:
        """Enlarge an image to twice its sides."""
        room = self.showing.drawings.room(visitor)
        metadata = await asyncio.to_thread(self.history.metadata, room, name)
        model, _ = drawn_by(metadata, self.engine.specs, model)
        adapters, notes = self.adapters.recorded(metadata, model)
        if model != metadata["model"]:
            own = str(metadata["model"])[:100]
            notes.append(f"It was drawn by {own}, missing here; {model} enlarges it.")
        for note in notes:
            gr.Warning(escape(note))
        views = self.showing.drawings.enlarge(visitor, model, name, FACTOR, adapters)
        async with aclosing(self.showing.show(visitor, mode, views, of_form=False)) as updates:
            async for update in updates:
                yield update

    async def _vary(
        self, visitor: gr.Request, mode: str, name: str, model: str, strength: float
    ) -> AsyncGenerator[Updates, None]:
        drawings = self.showing.drawings
        begin = partial(self._variation, drawings.room(visitor), name, model, strength)
        loop = asyncio.get_running_loop()
        wish, edit, notes = await loop.run_in_executor(self.engine.decoding.threads, begin)
        for note in notes:
            gr.Warning(escape(note))
        views = drawings.follow(visitor, wish, edit)
        async with aclosing(self.showing.show(visitor, mode, views, of_form=False)) as updates:
            async for update in updates:
                yield update

    def _variation(self, room: str, name: str, model: str, strength: float) -> tuple[Wish, Edit, list[str]]:
        file, metadata = self.history.file(room, name), self.history.metadata(room, name)
        model, notes = drawn_by(metadata, self.engine.specs, model)
        adapters, told = self.adapters.recorded(metadata, model)
        with self.engine.decoding.turn(math.prod(header_size(file))):
            image = open_image(file, "The image")
        wish, edit = variation_of(metadata, image, self.engine.specs[model], adapters, strength)
        return wish, edit, [*notes, *told]
