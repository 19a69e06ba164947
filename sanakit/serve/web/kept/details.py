"""One image of the history: its settings, and the buttons of all that can be made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from sanakit.serve.web.history import History
from sanakit.serve.web.settings import command_line

SURE_JS = "(name, _, ...rest) => [name, confirm('Delete this image for good?') ? 'yes' : '', ...rest]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """One image's settings and actions."""

    group: gr.Column
    download: gr.DownloadButton
    restore: gr.Button
    edit: gr.Button
    favourite: gr.Button
    delete: gr.Button
    subtle: gr.Button
    strong: gr.Button
    enlarge: gr.Button
    command: gr.Textbox
    data: gr.Code
    shown: gr.State  # the image's name in the history
    sure: gr.Textbox  # "yes" once the visitor has confirmed

    @property
    def changed(self) -> list[Any]:
        """The components that change with the image."""
        parts = [self.group, self.download, self.favourite, self.delete, self.command, self.data]
        return [*parts, self.shown]

    def show(self, history: History, room: str, name: str) -> dict[Any, Any]:
        """Return the changes that show an image. Raises SettingsError, StorageError."""
        metadata, own = history.metadata(room, name), history.is_own(room, name)
        marked = own and name in history.favourites(room)
        return {
            self.group: gr.update(visible=True),
            self.download: gr.update(value=str(history.file(room, name))),
            self.favourite: gr.update(value=_star(marked), visible=own),
            self.delete: gr.update(visible=own),
            self.command: command_line(metadata),
            self.data: json.dumps(metadata, indent=2, ensure_ascii=False),
            self.shown: name,
        }

    def hide(self) -> dict[Any, Any]:
        """Return the changes after the image is gone."""
        return {self.group: gr.update(visible=False), self.shown: ""}

    def toggle(self, history: History, room: str, name: str) -> dict[Any, Any]:
        """Mark the image as a favourite, or no longer. Raises SettingsError, OutputError, StorageError."""
        marked = name not in history.favourites(room)
        history.mark(room, name, marked)
        return {self.favourite: _star(marked)}


def make_details(where: str) -> Details:
    """Lay out one image's settings and buttons; hidden at first. where: begins their ids."""
    with gr.Column(visible=False, elem_id=f"{where}-details", elem_classes="details") as group:
        with gr.Row(elem_classes="actions"):
            download = gr.DownloadButton("Download", elem_id=f"{where}-download", size="md", min_width=100)
            restore = gr.Button("Use settings", size="md", elem_id=f"{where}-restore", min_width=100)
            edit = gr.Button("Edit", size="md", elem_id=f"{where}-edit", min_width=80)
            favourite = gr.Button(_star(False), size="md", elem_id=f"{where}-favourite", min_width=120)
            delete = gr.Button("Delete", size="md", elem_id=f"{where}-delete", min_width=80)
        with gr.Row(elem_classes="actions"):
            subtle = gr.Button("Vary a little", size="md", elem_id=f"{where}-subtle", min_width=100)
            strong = gr.Button("Vary strongly", size="md", elem_id=f"{where}-strong", min_width=100)
            enlarge = gr.Button("Enlarge 2×", size="md", elem_id=f"{where}-enlarge", min_width=100)
        command, data = make_record(where)
        shown, sure = gr.State(""), gr.Textbox(visible=False)
    found = locals()
    return Details(**{field.name: found[field.name] for field in fields(Details)})


def make_record(where: str) -> tuple[gr.Textbox, gr.Code]:
    """Lay out the command that draws an image or clip again, and its settings. where: begins their ids."""
    command = gr.Textbox(
        label="Command to draw it again",
        interactive=False,
        lines=1,
        max_lines=6,
        buttons=["copy"],
        elem_id=f"{where}-command",
        elem_classes="mono",
    )
    with gr.Accordion("Settings as JSON", open=False):
        data = gr.Code(
            language="json",
            label="Settings",
            show_label=False,
            interactive=False,
            lines=1,
            show_line_numbers=False,
            wrap_lines=True,
            buttons=["copy"],
            elem_id=f"{where}-data",
        )
    return command, data


def _star(marked: bool) -> str:
    return "★ Favourite" if marked else "☆ Favourite"
