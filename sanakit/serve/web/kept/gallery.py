"""The gallery: pages of earlier images, searched, marked, deleted, or downloaded together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from html import escape
from typing import Any

import gradio as gr

from sanakit.errors import SettingsError
from sanakit.serve.web.history import History
from sanakit.serve.web.kept.archive import write_archive
from sanakit.serve.web.kept.details import Details, make_details
from sanakit.serve.web.kept.downloads import Downloads
from sanakit.serve.web.kept.tiles import (
    CONFIRMED_JS,
    TICK_ALL_JS,
    TICKED_JS,
    chosen_tile,
    make_tiles,
    ticked,
    tiles_html,
)
from sanakit.serve.web.messages import tie
from sanakit.wording import counted

PER_PAGE = 48  # images
NOTHING = '<div class="empty"><b>Nothing here yet</b><span>Your images are kept here.</span></div>'
NOT_FOUND = '<div class="empty"><b>No image fits</b><span>Search for other words.</span></div>'
DOWNLOAD_JS = "() => setTimeout(() => document.querySelector('#archive')?.click(), 300)"
Updates = dict[Any, Any]  # component -> its new value, or gr.update


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Earlier images, the newest first, and one of them large."""

    group: gr.Column
    words: gr.Textbox
    favourites: gr.Checkbox
    grid: gr.HTML
    count: gr.HTML
    newer: gr.Button
    older: gr.Button
    first: gr.State  # index of the first image that is shown
    everything: gr.Button  # ticks all
    download: gr.Button
    delete: gr.Button
    names: gr.Textbox  # of ticked images, as JSON
    archive: gr.DownloadButton
    image: gr.Image
    details: Details


class KeptGallery:
    """The functions behind the gallery, one an event. room: of a visitor's images."""

    def __init__(self, history: History, room: Callable[[gr.Request], str]) -> None:
        self.history, self.room = history, room
        self.archives = Downloads("sana-zip-", history.folder)

    def lay_out(self) -> None:
        """Make the components inside the Blocks that are open, and tie them to the functions."""
        self.parts = parts = make_overview()
        self.asked = asked = [parts.words, parts.favourites, parts.first]
        self.changed = listed = [parts.grid, parts.count, parts.newer, parts.older, parts.first]
        tie(parts.words.change, self.search, asked[:2], listed, trigger_mode="always_last")
        tie(parts.favourites.input, self.search, asked[:2], listed)
        tie(parts.newer.click, self.turn_back, asked, listed)
        tie(parts.older.click, self.turn_on, asked, listed)
        tie(parts.grid.select, self.choose, [], [parts.image, *parts.details.changed])
        parts.everything.click(None, js=TICK_ALL_JS, api_visibility="private")
        ticks = [parts.names, *asked]
        shown = [*listed, parts.image, parts.details.group, parts.details.shown]
        tie(parts.delete.click, self.delete_ticked, ticks, shown, js=CONFIRMED_JS)
        made = tie(parts.download.click, self.download_ticked, ticks[:-1], [parts.archive], js=TICKED_JS)
        made.success(None, js=DOWNLOAD_JS, api_visibility="private")

    def list(self, visitor: gr.Request, words: str = "", favourites: bool = False, first: int = 0) -> Updates:
        """Show a page of what was drawn before, the newest first. first: index of its first image."""
        room, parts = self.room(visitor), self.parts
        names = self.history.find(room, words, favourites=favourites)
        first = min(max(0, first), max(0, (len(names) - 1) // PER_PAGE * PER_PAGE))
        shown = names[first : first + PER_PAGE]
        empty = NOT_FOUND if words.strip() or favourites else NOTHING
        told = f"{first + 1} to {first + len(shown)} of {counted(len(names), 'image')}" if shown else ""
        return {
            parts.grid: tiles_html(self.history, room, shown, ticks=True) or empty,
            parts.count: escape(told),
            parts.newer: gr.update(interactive=first > 0),
            parts.older: gr.update(interactive=first + PER_PAGE < len(names)),
            parts.first: first,
        }

    def search(self, visitor: gr.Request, words: str, favourites: bool) -> Updates:
        """Show what fits, from the newest on."""
        return self.list(visitor, words, favourites)

    def turn_back(self, visitor: gr.Request, words: str, favourites: bool, first: int) -> Updates:
        """Show the page of newer images."""
        return self.list(visitor, words, favourites, first - PER_PAGE)

    def turn_on(self, visitor: gr.Request, words: str, favourites: bool, first: int) -> Updates:
        """Show the page of older images."""
        return self.list(visitor, words, favourites, first + PER_PAGE)

    def choose(self, visitor: gr.Request, event: gr.EventData) -> Updates:
        """Show an image large, and its settings."""
        room, name = self.room(visitor), chosen_tile(event)
        shown = gr.update(value=str(self.history.file(room, name)), visible=True)
        return {self.parts.image: shown, **self.parts.details.show(self.history, room, name)}

    def forget(self) -> Updates:
        """Return the changes after the image that is shown large is gone."""
        return {self.parts.image: gr.update(value=None, visible=False), **self.parts.details.hide()}

    def delete_ticked(
        self, visitor: gr.Request, names: str, words: str, favourites: bool, first: int
    ) -> Updates:
        """Delete the ticked images for good; nothing without a tick or the visitor's yes."""
        chosen = ticked(names)
        if not chosen:
            raise SettingsError("Nothing was deleted: tick the images to delete, and confirm it.")
        self.history.delete(self.room(visitor), chosen)
        return self.list(visitor, words, favourites, first) | self.forget()

    def download_ticked(self, visitor: gr.Request, names: str, words: str, favourites: bool) -> Updates:
        """Write the ticked images into a ZIP file; without a tick all that the search finds."""
        room = self.room(visitor)
        chosen = ticked(names) or self.history.find(room, words, favourites=favourites)
        with self.archives.added("sanakit-images.zip") as path:
            count = write_archive(self.history, room, chosen, path)
        label = f"Save {counted(count, 'image')}, {path.stat().st_size / 1e6:.1f} MB"
        return {self.parts.archive: gr.update(value=str(path), label=label, visible=True)}


def make_overview() -> Overview:
    """Lay out the gallery; hidden at first."""
    with gr.Column(visible=False, elem_id="overview") as group:
        with gr.Row(elem_id="search"):
            words = gr.Textbox(
                label="Search",
                placeholder="words of the prompt, a model or a seed",
                max_length=200,
                elem_id="words-searched",
                scale=4,
                min_width=200,
            )
            favourites = gr.Checkbox(label="Favourites", elem_id="favourites", scale=1, min_width=120)
        with gr.Row(elem_id="overview-body"):
            with gr.Column(scale=3, min_width=320):
                grid = make_tiles(elem_id="grid")
                with gr.Row(elem_classes="actions", elem_id="pages"):
                    newer = gr.Button("← Newer", size="md", elem_id="newer", interactive=False, min_width=90)
                    count = gr.HTML("", elem_id="found")
                    older = gr.Button("Older →", size="md", elem_id="older", interactive=False, min_width=90)
                with gr.Row(elem_classes="actions"):
                    everything = gr.Button("Tick all", size="md", elem_id="tick-all", min_width=90)
                    download = gr.Button("Download ZIP", size="md", elem_id="download-ticked", min_width=120)
                    delete = gr.Button("Delete ticked", size="md", elem_id="delete-ticked", min_width=120)
                archive = gr.DownloadButton("Save", visible=False, elem_id="archive", size="md")
            with gr.Column(scale=2, min_width=320):
                image = gr.Image(
                    label="Chosen image",
                    show_label=False,
                    type="filepath",
                    image_mode=None,
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                    elem_id="chosen",
                )
                details = make_details("chosen")
        first, names = gr.State(0), gr.Textbox(visible=False)
    found = locals()
    return Overview(**{field.name: found[field.name] for field in fields(Overview)})
