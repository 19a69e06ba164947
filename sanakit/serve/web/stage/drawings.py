"""A visitor's drawings: each in the visitor's room, and charged to the login if there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import gradio as gr
from PIL import Image

from sanakit.errors import SanaError
from sanakit.serve.web.history import room_of
from sanakit.serve.web.settings import Wish
from sanakit.serve.web.studio import Edit, Studio, View, charged
from sanakit.wording import counted


class VisitorDrawings:
    """The drawings of visitors. private, charge: as for `Page`."""

    def __init__(
        self, studio: Studio, *, private: bool, charge: Callable[[str, int], Callable[[], None]] | None
    ) -> None:
        self.studio, self.history = studio, studio.history
        self._private, self._charge = private, charge
        self._series: dict[str, bool] = {}  # a tab's that is being drawn: whether it was cancelled

    def room(self, visitor: gr.Request) -> str:
        """Return the room of a visitor's images: by login if there is one, by tab if the page is private."""
        return room_of(visitor.username, visitor.session_hash, private=self._private)

    def follow(self, visitor: gr.Request, wish: Wish, edit: Edit | None = None) -> AsyncGenerator[View, None]:
        """Draw as `Studio.draw` does."""
        views = self.studio.draw(visitor.session_hash or "", self.room(visitor), wish, edit)
        return self._charged(visitor, views, wish.num_images)

    async def series(
        self, visitor: gr.Request, wishes: Sequence[Wish], edit: Edit | None = None
    ) -> AsyncGenerator[View, None]:
        """Draw one image for each wish, one after the other, as `Studio.draw` does.

        All are checked before the first is drawn. Images that were drawn before a cancel or an error stay in
        the history; the last view names them.
        """
        session, total = visitor.session_hash or "", len(wishes)
        names: list[str] = []
        seen: list[Image.Image | None] = [None] * total
        self._series[session] = False
        try:
            yield View(state="waiting", message="Getting ready", previews=seen)
            for number, wish in enumerate(wishes):
                loop, threads = asyncio.get_running_loop(), self.studio.engine.decoding.threads
                try:
                    await loop.run_in_executor(threads, self.studio.check, wish, edit)
                except SanaError as error:
                    failed = View.failed(error)
                    message = f"Image {number + 1} of {total}: {error}"
                    yield replace(failed, message=message, free=True)
                    return
            for number, wish in enumerate(wishes):
                last = View(state="stopped", message="Stopped.")
                if not self._series[session]:
                    async with aclosing(self.follow(visitor, wish, edit)) as views:
                        async for view in views:
                            last = view
                            seen[number] = next(iter(view.previews), None) or seen[number]
                            if view.state == "drawing":
                                message = f"Image {number + 1} of {total}: {view.message}"
                                done = (number + view.done) / total
                                yield replace(view, message=message, done=done, previews=[*seen])
                if last.state != "done":
                    yield replace(last, names=names)
                    return
                names += last.names
            yield replace(last, message=f"{counted(total, 'image was', 'images were')} drawn.", names=names)
        finally:
            del self._series[session]

    def enlarge(
        self, visitor: gr.Request, model: str, name: str, factor: float, adapters: Mapping[str, float]
    ) -> AsyncGenerator[View, None]:
        """Enlarge as `Studio.enlarge` does."""
        session, room = visitor.session_hash or "", self.room(visitor)
        views = self.studio.enlarge(session, room, model, name, factor, adapters)
        return self._charged(visitor, views, 1)

    def is_drawing(self, visitor: gr.Request) -> bool:
        """Return whether a visitor's tab draws already."""
        session = visitor.session_hash or ""
        return session in self._series or self.studio.is_drawing(session)

    def cancel(self, visitor: gr.Request) -> None:
        """Stop what a visitor's tab draws."""
        session = visitor.session_hash or ""
        if session in self._series:
            self._series[session] = True
        self.studio.cancel(session)

    def _charged(
        self, visitor: gr.Request, drawing: AsyncGenerator[View, None], num_images: int
    ) -> AsyncGenerator[View, None]:
        charge = None
        if self._charge is not None and visitor.username:
            charge = partial(self._charge, visitor.username, num_images)
        return charged(drawing, charge)
