"""A visitor's drawings: each in the visitor's room, and charged to the login if there is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

import gradio as gr

from sanakit.serve.web.history import room_of
from sanakit.serve.web.settings import Wish
from sanakit.serve.web.studio import Edit, Studio, View, charged


class Drawings:
    """What visitors draw. private, charge: as for `Page`."""

    def __init__(
        self, studio: Studio, *, private: bool, charge: Callable[[str, int], Callable[[], None]] | None
    ) -> None:
        self.studio, self.history = studio, studio.history
        self._private, self._charge = private, charge

    def room(self, visitor: gr.Request) -> str:
        """Return the room of a visitor's images: by login if there is one, by tab if the page is private."""
        return room_of(visitor.username, visitor.session_hash, private=self._private)

    def follow(self, visitor: gr.Request, wish: Wish, edit: Edit | None = None) -> AsyncGenerator[View, None]:
        """Draw as `Studio.draw` does."""
        views = self.studio.draw(visitor.session_hash or "", self.room(visitor), wish, edit)
        return self._charged(visitor, views, wish.num_images)

    def enlarge(
        self, visitor: gr.Request, model: str, name: str, factor: float
    ) -> AsyncGenerator[View, None]:
        """Enlarge as `Studio.enlarge` does."""
        views = self.studio.enlarge(visitor.session_hash or "", self.room(visitor), model, name, factor)
        return self._charged(visitor, views, 1)

    def is_drawing(self, visitor: gr.Request) -> bool:
        """Return whether a visitor's tab draws already."""
        return self.studio.is_drawing(visitor.session_hash or "")

    def cancel(self, visitor: gr.Request) -> None:
        """Stop what a visitor's tab draws."""
        self.studio.cancel(visitor.session_hash or "")

    def _charged(
        self, visitor: gr.Request, drawing: AsyncGenerator[View, None], num_images: int
    ) -> AsyncGenerator[View, None]:
        charge = None
        if self._charge is not None and visitor.username:
            charge = partial(self._charge, visitor.username, num_images)
        return charged(drawing, charge)
