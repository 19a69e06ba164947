"""The part of the page for grids: two settings and their values, a button, and the sheet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from sanakit.errors import SanaError, of_setting
from sanakit.serve.web.grid.axes import MOST_TEXT, NOTHING, SETTINGS, Axis, cells_of, read_axis, recorded
from sanakit.serve.web.grid.sheet import make_sheet
from sanakit.serve.web.messages import tie
from sanakit.serve.web.settings import Wish
from sanakit.serve.web.stage.show import Showing, Updates
from sanakit.serve.web.studio import Edit, View

_STEERED = "Control strength"  # needs a ControlNet


@dataclass(frozen=True, kw_only=True, slots=True)
class GridPanel:
    """The components of the panel."""

    across: gr.Dropdown
    across_values: gr.Textbox
    down: gr.Dropdown
    down_values: gr.Textbox
    draw: gr.Button


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetArea:
    """The sheet below the stage; hidden until there is one."""

    group: gr.Column
    sheet: gr.Image
    download: gr.DownloadButton


class Grid:
    """The functions behind the panel. wish: makes a wish and an edit of the values that a drawing takes."""

    def __init__(
        self,
        showing: Showing,
        panel: GridPanel,
        area: SheetArea,
        wish: Callable[[str, bool, str, tuple], tuple[Wish, Edit | None]],
    ) -> None:
        self.showing, self.panel, self.area, self._wish = showing, panel, area, wish

    def tie(self, asked: Sequence[Any]) -> None:
        """Tie the function to the button. asked: what a drawing takes."""
        panel, area = self.panel, self.area
        axes = [panel.across, panel.across_values, panel.down, panel.down_values]
        changed = [*self.showing.changed, area.group, area.sheet, area.download]
        tie(panel.draw.click, self.draw, [*axes, *asked], changed, concurrency_limit=None)

    async def draw(
        self,
        visitor: gr.Request,
        across: str,
        across_values: str,
        down: str,
        down_values: str,
        mode: str,
        keep_seed: bool,
        drawn_seed: str,
        *values: Any,
    ) -> AsyncIterator[Updates]:
        """Draw an image for each pair of values, and the sheet of all. One seed holds for all of them."""
        try:
            with of_setting("across_values"):
                columns = read_axis(across, across_values)
            with of_setting("down_values"):
                rows = read_axis(down, down_values)
            axes = columns, rows
            wish, edit = self._wish(mode, keep_seed, drawn_seed, values)
            cells = cells_of(wish, *axes)
        except SanaError as error:
            yield self.showing.fail(error)
            return
        panel = self.showing.panel
        yield {panel.seed: wish.seed, panel.drawn_seed: wish.seed, self.area.group: gr.update(visible=False)}
        names: list[str] = []
        views = _noting(self.showing.drawings.series(visitor, cells, edit), names, axes)
        async with aclosing(self.showing.show(visitor, mode, views)) as updates:
            async for update in updates:
                yield update
        if len(names) == len(cells):
            room = self.showing.drawings.room(visitor)
            path = await asyncio.to_thread(self._keep_sheet, room, names, *axes)
            area, parts = self.area, self.showing.parts
            yield {
                parts.recent: self.showing.recent(room),
                area.group: gr.update(visible=True),
                area.sheet: str(path),
                area.download: gr.update(value=str(path)),
            }

    def _keep_sheet(self, room: str, names: Sequence[str], across: Axis, down: Axis) -> Path:
        """Keep the sheet in the history, as an image: it outlives the visit."""
        history = self.showing.drawings.history
        # Copies of more images than the history keeps at once would be gone before the last is laid out.
        sheet = make_sheet([lambda name=name: history.read(room, name) for name in names], across, down)
        metadata = {**history.about(room, names[0]), **recorded((across, down))}
        return history.file(room, history.add(room, sheet, metadata))


async def _noting(
    views: AsyncGenerator[View, None], names: list[str], axes: tuple[Axis, Axis]
) -> AsyncGenerator[View, None]:
    """Yield views, and note the names that the last one tells. A value of an axis is refused at the axis."""
    fields_asked = zip(axes, ("across_values", "down_values"), strict=True)
    asked = {axis.setting: field for axis, field in fields_asked if axis.setting}
    async with aclosing(views):
        async for view in views:
            names[:] = view.names
            yield replace(view, setting=asked.get(view.setting, view.setting))


def make_grid_panel(*, steered: bool) -> GridPanel:
    """Lay out the two settings of a grid. steered: whether there are ControlNets."""
    choices = [NOTHING, *(name for name in SETTINGS if steered or name != _STEERED)]
    with gr.Accordion("X/Y grid", open=False, elem_id="grid-settings"):
        across, across_values = _make_axis("Across", "across", "Steps", choices, "4, 8, 16")
        down, down_values = _make_axis("Down", "down", "Guidance", choices, "1, 2.5, 4")
        draw = gr.Button("Draw the grid", elem_id="draw-grid", size="md")
    found = locals()
    return GridPanel(**{field.name: found[field.name] for field in fields(GridPanel)})


def make_sheet_area() -> SheetArea:
    """Lay out the place of the sheet; hidden at first."""
    with gr.Column(visible=False, elem_id="sheet-area") as group:
        sheet = gr.Image(
            label="The grid in one image",
            type="filepath",
            image_mode=None,
            interactive=False,
            buttons=["fullscreen"],
            elem_id="sheet",
        )
        download = gr.DownloadButton("Download the grid", elem_id="download-sheet", size="md")
    return SheetArea(group=group, sheet=sheet, download=download)


def _make_axis(
    label: str, ids: str, chosen: str, choices: list[str], values: str
) -> tuple[gr.Dropdown, gr.Textbox]:
    with gr.Row():
        setting = gr.Dropdown(
            choices, value=chosen, label=label, elem_id=f"grid-{ids}", min_width=130, scale=2
        )
        typed = gr.Textbox(
            values,
            label=f"Values {label.lower()}",
            info="1-4 is 1, 2, 3, 4; texts are parted by ;",
            max_length=MOST_TEXT,
            elem_id=f"grid-{ids}-values",
            min_width=150,
            scale=3,
        )
    return setting, typed
