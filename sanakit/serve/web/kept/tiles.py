"""Small images side by side as HTML, with what a browser does when one is chosen.

Each tile is a button with the image's prompt, so that keyboards and screen readers reach it. The images are
in the page itself: none is fetched from an address, and none is larger than a small one of the history.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from sanakit.errors import SettingsError
from sanakit.serve.web.history import History

MOST_TICKED = 5000  # images that are chosen at once
MOST_WORDS = 120  # characters of a prompt below a tile

# A tile that was pressed is an event with its name. Times are shown as the browser's own place has them.
TILES_JS = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('button[data-name]');
  if (!tile) return;
  for (const other of element.querySelectorAll('[aria-pressed=true]')) other.ariaPressed = 'false';
  tile.ariaPressed = 'true';
  trigger('select', {name: tile.dataset.name});
});
const local = () => {
  for (const time of element.querySelectorAll('time')) {
    time.textContent = new Date(time.dateTime).toLocaleString([], {dateStyle: 'medium', timeStyle: 'short'});
  }
};
local();
watch('value', local);
"""
_TICKED = "[...document.querySelectorAll('#grid input:checked')].map((box) => box.dataset.name)"
TICKED_JS = f"(_, ...rest) => [JSON.stringify({_TICKED}), ...rest]"  # the first input takes the names
CONFIRMED_JS = f"""(_, ...rest) => {{
  const names = {_TICKED};
  const noun = names.length === 1 ? "image" : "images";
  const sure = names.length && confirm(`Delete ${{names.length}} ${{noun}} for good?`);
  return [JSON.stringify(sure ? names : []), ...rest];
}}"""
TICK_ALL_JS = """() => {
  const boxes = [...document.querySelectorAll('#grid input[type=checkbox]')];
  const all = boxes.every((box) => box.checked);
  for (const box of boxes) box.checked = !all;
}"""


def tiles_html(history: History, room: str, names: Sequence[str], *, ticks: bool = False) -> str:
    """Return tiles of images, in their order. ticks: each with a box to choose several, and its prompt."""
    marked = history.favourites(room) if names else set()
    tiles = [_tile(history, room, name, name in marked, ticks) for name in names]
    large = " large" if ticks else ""
    return f'<ol class="tiles{large}" aria-label="Images">{"".join(tiles)}</ol>' if tiles else ""


def chosen_tile(event: gr.EventData) -> str:
    """Return the name of the image whose tile was pressed. Raises SettingsError."""
    told = getattr(event, "_data", None)
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(name, str):
        raise SettingsError("This image is not shown any more: choose another one.")
    return name


def ticked(text: str | None) -> list[str]:
    """Return the names that a browser sends as ticked. Raises SettingsError."""
    try:
        names = json.loads(text or "[]")
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError("The ticked images are not understood: reload the page.")
    if len(names) > MOST_TICKED:
        raise SettingsError(f"{len(names)} images are ticked: choose at most {MOST_TICKED} at once.")
    return names


def _tile(history: History, room: str, name: str, marked: bool, ticks: bool) -> str:
    try:
        data, about = history.small(room, name), history.about(room, name)
    except SettingsError as error:  # it was deleted a moment ago, or its file is damaged
        data, about = b"", {"prompt": str(error)}
    prompt = escape(str(about.get("prompt", "")))
    short = escape(_shortened(str(about.get("prompt", ""))))
    shown = '<span class="damaged" aria-hidden="true">⚠</span>'
    if data:
        address = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        shown = f'<img alt="" loading="lazy" decoding="async" src="{address}">'
    star = '<span class="star" role="img" aria-label="Favourite">★</span>' if marked else ""
    button = (
        f'<button type="button" data-name="{escape(name)}" title="{prompt}" aria-label="{short}" '
        f'aria-pressed="false">{shown}</button>{star}'
    )
    if not ticks:
        return f"<li>{button}</li>"
    time = history.time(room, name).isoformat(timespec="seconds")
    box = f'<input type="checkbox" data-name="{escape(name)}" aria-label="Tick: {short}">'
    return f'<li>{button}{box}<p>{short}</p><time datetime="{time}"></time></li>'


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= MOST_WORDS else f"{prompt[:MOST_WORDS]}…"


def make_tiles(**options: Any) -> gr.HTML:
    """Lay out a place for tiles. options: of `gr.HTML`."""
    return gr.HTML("", js_on_load=TILES_JS, **options)
