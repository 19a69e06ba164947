"""The stage: how a drawing goes, and then its images. A failure leaves the images that were there before."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

from sanakit.errors import SanaError, SettingsError
from sanakit.serve.web.messages import Fields
from sanakit.serve.web.panel import Panel
from sanakit.serve.web.parts import CREATE, GALLERY, DrawingArea
from sanakit.serve.web.stage.drawings import VisitorDrawings
from sanakit.serve.web.studio import View
from sanakit.serve.web.view import grid_columns, preview_html, status_html

Updates = dict[Any, Any]  # component -> its new value, or gr.update


class Showing:
    """Shows drawings.

    recent: makes the tiles of a room's newest images. fields: where refused settings are told.
    """

    def __init__(
        self,
        drawings: VisitorDrawings,
        mode: gr.Radio,
        panel: Panel,
        parts: DrawingArea,
        recent: Callable[[str], str],
        fields: Fields,
    ) -> None:
        self.drawings, self.mode, self.panel, self.parts, self.recent = drawings, mode, panel, parts, recent
        self.fields = fields

    @property
    def changed(self) -> list[Any]:
        """The components that change while an image is drawn."""
        panel, parts = self.panel, self.parts
        around = [self.mode, panel.drawn_seed, panel.draw, panel.cancel, panel.seed]
        shown = [parts.view, parts.images, parts.status, parts.names, parts.recent]
        return [*around, *shown, *parts.details.changed]

    def fail(self, error: SanaError) -> Updates:
        """Return the changes that tell why nothing is drawn."""
        return self._idle() | {self.parts.status: status_html(View.failed(error), self.fields)}

    async def show(
        self, visitor: gr.Request, mode: str, views: AsyncGenerator[View, None], *, of_form: bool = True
    ) -> AsyncGenerator[Updates, None]:
        """Show how a drawing goes. Raises SettingsError where one goes already.

        mode: the chosen one. of_form: whether its settings are those of the fields, and refused there.
        """
        panel, parts, fields = self.panel, self.parts, self.fields if of_form else {}
        async with aclosing(views):
            if self.drawings.is_drawing(visitor):
                raise SettingsError("An image is being drawn: wait for it, or cancel it.")
            yield {
                self.mode: CREATE if mode == GALLERY else mode,
                panel.draw: gr.update(interactive=False),
                panel.cancel: gr.update(interactive=True),
            }
            async for view in views:
                changes: Updates = {parts.status: status_html(view, fields)}
                if view.state in ("waiting", "drawing"):
                    changes[parts.view] = gr.update(value=preview_html(view), visible=True)
                elif view.state == "done":
                    yield {parts.images: gr.update(value=None, selected_index=None)}  # it else stays chosen
                    changes |= self._idle() | self.finished(self.drawings.room(visitor), view.names)
                else:
                    changes |= self._idle()
                    if view.names:  # of a series that ended early
                        changes[parts.recent] = self.recent(self.drawings.room(visitor))
                    if view.state != "stopped":  # then what was seen last stays
                        changes[parts.view] = gr.update(visible=False)
                yield changes

    def finished(self, room: str, names: list[str]) -> Updates:
        """Return the changes that show images; several as a grid to choose from."""
        parts, history = self.parts, self.drawings.history
        several = len(names) > 1
        shown = {"preview": not several, "selected_index": None if several else 0}
        shown["columns"] = grid_columns(len(names))
        files = []
        for name in names:  # a caption is what a screen reader says of an image
            prompt = history.metadata(room, name)["prompt"]
            files.append((str(history.file(room, name)), prompt))
        return {
            parts.view: gr.update(visible=False),
            parts.images: gr.update(value=files, visible=True, **shown),
            parts.names: names,
            parts.recent: self.recent(room),
            **parts.details.show(history, room, names[0]),
        }

    def _idle(self) -> Updates:
        panel = self.panel
        return {panel.draw: gr.update(interactive=True), panel.cancel: gr.update(interactive=False)}
