"""Kept images, on the stage and in the gallery: list, mark, delete."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sanakit.serve.web.kept.details import SURE_JS
from sanakit.serve.web.kept.gallery import KeptGallery
from sanakit.serve.web.kept.tiles import tiles_html
from sanakit.serve.web.messages import tie
from sanakit.serve.web.parts import GALLERY, DrawingArea

MOST_RECENT = 24  # images in the strip below the stage
Updates = dict[Any, Any]  # component -> its new value, or gr.update


class KeptActions:
    """The functions of the strip and of the buttons for one image, one an event."""

    def __init__(self, gallery: KeptGallery, stage: DrawingArea) -> None:
        self.gallery, self.stage = gallery, stage
        self.history, self.room = gallery.history, gallery.room

    def tie(self, mode: gr.Radio) -> None:
        """Tie the functions to the components. mode: the choice of modes."""
        stage, gallery = self.stage, self.gallery
        listed = [stage.recent, *gallery.changed]
        tie(mode.change, self.list, [mode, *gallery.asked], listed)
        shown, chosen = stage.details, gallery.parts.details
        tie(shown.favourite.click, self.mark_shown, [shown.shown], [shown.favourite, stage.recent])
        tie(
            chosen.favourite.click,
            self.mark_chosen,
            [chosen.shown, *gallery.asked],
            [chosen.favourite, *gallery.changed],
        )
        gone = [stage.images, stage.names, shown.group, shown.shown, stage.recent]
        tie(shown.delete.click, self.delete_shown, [shown.shown, shown.sure], gone, js=SURE_JS)
        tie(
            chosen.delete.click,
            self.delete_chosen,
            [chosen.shown, chosen.sure, *gallery.asked],
            [*gallery.changed, gallery.parts.image, chosen.group, chosen.shown],
            js=SURE_JS,
        )

    def recent(self, room: str) -> str:
        """Return the tiles of a room's newest images."""
        return tiles_html(self.history, room, self.history.names(room)[:MOST_RECENT])

    def list_recent(self, visitor: gr.Request) -> Updates:
        """Show the newest images, as when the page is loaded."""
        return {self.stage.recent: self.recent(self.room(visitor))}

    def list(self, visitor: gr.Request, mode: str, *asked: Any) -> Updates:
        """Show what was drawn before, in the mode for it; else the newest."""
        return self.gallery.list(visitor, *asked) if mode == GALLERY else self.list_recent(visitor)

    def mark_shown(self, visitor: gr.Request, name: str) -> Updates:
        """Mark the image on the stage as a favourite, or no longer."""
        marked = self.stage.details.toggle(self.history, self.room(visitor), name)
        return marked | self.list_recent(visitor)

    def mark_chosen(self, visitor: gr.Request, name: str, *asked: Any) -> Updates:
        """Mark the chosen image of the gallery, or no longer."""
        marked = self.gallery.parts.details.toggle(self.history, self.room(visitor), name)
        return marked | self.gallery.list(visitor, *asked)

    def delete_shown(self, visitor: gr.Request, name: str, sure: str) -> Updates:
        """Delete the image on the stage for good, once the visitor is sure."""
        if sure != "yes":
            return self.list_recent(visitor)
        self.history.delete(self.room(visitor), [name])
        stage = self.stage
        gone = {stage.images: gr.update(value=None, visible=False), stage.names: []}
        return gone | stage.details.hide() | self.list_recent(visitor)

    def delete_chosen(self, visitor: gr.Request, name: str, sure: str, *asked: Any) -> Updates:
        """Delete the chosen image of the gallery for good, once the visitor is sure."""
        if sure != "yes":
            return self.gallery.list(visitor, *asked)
        self.history.delete(self.room(visitor), [name])
        return self.gallery.list(visitor, *asked) | self.gallery.forget()
