"""The tab Live: words, a sketch if there is one, and the image that follows every key.

`live.js` asks `routes.py` for each image and shows it, without an event of Gradio: those take longer than the
image. An image is kept only by the button for it.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from sanakit.errors import SettingsError
from sanakit.serve.web.history import History, room_of
from sanakit.serve.web.live.drawings import LiveDrawings
from sanakit.serve.web.live.routes import tab_name
from sanakit.serve.web.live.wish import SKETCH_STRENGTH
from sanakit.serve.web.messages import tie
from sanakit.serve.web.panel import MOST_PROMPT

LIVE = "Live"  # the mode
CSS = Path(__file__).with_name("live.css")
HEAD = '<script type="module" src="live/live.js"></script>'
_COLOURS = {
    **{"Black": "#1c1917", "Red": "#dc2626", "Orange": "#f59e0b", "Yellow": "#fde047", "Green": "#16a34a"},
    **{"Blue": "#2563eb", "Brown": "#92400e", "White": "#ffffff"},
}
_KEEP = "() => window.sanaLive ? window.sanaLive.shown() : ['', -1]"  # names the image that is shown
_EMPTY = (
    "<b>Type, and it draws</b><span>Every key draws a new image; nothing is kept unless you keep it.</span>"
)
_STAGE = f"""
<div id="live-view"><img id="live-image" alt="" hidden><div class="empty" id="live-empty">{_EMPTY}</div></div>
<div id="live-status" class="status" role="status"></div>
"""


class LiveTab:
    """The tab's components, and the one event that is Gradio's: keeping an image.

    private: as for `Page`.
    """

    def __init__(self, drawings: LiveDrawings, history: History, *, private: bool = False) -> None:
        self.drawings, self.history, self.private = drawings, history, private

    def lay_out(self) -> None:
        """Make the components inside the Blocks that are open."""
        models = list(self.drawings.engine.specs)
        with gr.Row(elem_id="live"):
            with gr.Column(scale=4, min_width=300, elem_id="live-panel"):
                gr.Textbox(
                    label="Words",
                    placeholder="a fox to the left of a red apple",
                    lines=2,
                    max_lines=6,
                    max_length=MOST_PROMPT,
                    elem_id="live-prompt",
                )
                gr.Dropdown(
                    models, value=models[0], label="Model", visible=len(models) > 1, elem_id="live-model"
                )
                gr.HTML(_sketch(), elem_id="live-sketch", label="Sketch")
            with gr.Column(scale=8, min_width=320, elem_id="live-right"):
                gr.HTML(_STAGE, elem_id="live-stage")
                with gr.Row(elem_id="live-buttons"):
                    keep = gr.Button("Keep", variant="primary", elem_id="live-keep", min_width=100)
                    gr.Button("Another", elem_id="live-another", min_width=100)
                    kept = gr.HTML("", elem_id="live-kept")
        named = [gr.Textbox(visible=False), gr.Number(visible=False, precision=0)]
        tie(keep.click, self.keep, named, [kept], js=_KEEP)

    def keep(self, visitor: gr.Request, tab: str, number: int | None) -> str:
        """Keep the image that a tab shows in its visitor's gallery. Raises SettingsError, OutputError."""
        if not tab or number is None or number < 0:
            raise SettingsError("Nothing is drawn yet: type some words first.")
        image, metadata = self.drawings.drawn(tab_name(visitor.username, tab), int(number))
        room = room_of(visitor.username, visitor.session_hash, private=self.private)
        self.history.add(room, image, metadata)
        return '<div class="status">Kept: it is in the Gallery.</div>'


def _sketch() -> str:
    """Return the canvas and its tools."""
    colours = "".join(
        f'<label title="{name}" style="--ink: {ink}"><input type="radio" name="live-ink" value="{ink}" '
        f'aria-label="{name}"{" checked" * (name == "Red")}></label>'
        for name, ink in _COLOURS.items()
    )
    return f"""
<div class="sketch-head"><span id="live-sketch-title">Sketch</span>
<button type="button" id="live-undo" class="tool">Undo</button>
<button type="button" id="live-clear" class="tool">Clear</button></div>
<canvas id="live-canvas" width="256" height="256" role="img" aria-labelledby="live-sketch-title"></canvas>
<div class="inks" role="radiogroup" aria-label="Colour">{colours}</div>
<label class="range">Brush <input type="range" id="live-size" min="4" max="64" value="20"></label>
<label class="range">Strength <input type="range" id="live-strength" min="0.3" max="0.9" step="0.05"
value="{SKETCH_STRENGTH}"></label>
"""
