"""The HTML shown while an image is drawn: previews side by side, and a line below them."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from sanakit.serve.web.messages import Fields, marking
from sanakit.serve.web.studio import View

EMPTY = (
    '<div class="empty"><b>Your image appears here</b>'
    "<span>Write what you want to see, then press Draw or <kbd>Ctrl</kbd> <kbd>Enter</kbd>.</span></div>"
)


def preview_html(view: View) -> str:
    """Return the images so far, as they are being drawn, side by side."""
    cells = []
    for number, preview in enumerate(view.previews, 1):
        if preview is None:
            cells.append('<div class="blank"></div>')
        else:
            cells.append(f'<img alt="Preview of image {number}" src="{data_uri(preview)}">')
    many = f' many" style="--columns: {grid_columns(len(cells))}' if len(cells) > 1 else ""
    return f'<div class="cells{many}">{"".join(cells)}</div>'


def grid_columns(images: int) -> int:
    """Return the number of columns that so many images have side by side: two rows, more of many."""
    return min(images, 2) if images < 5 else min(-(-images // 2), 6)


def status_html(view: View, fields: Fields | None = None) -> str:
    """Return the line below the previews: the current action and its progress.

    fields: of the tab, see `fields_of`: at one of them a refused setting is told.
    """
    wrong = " wrong" if view.state == "failed" else ""
    bar = ""
    if view.state in ("waiting", "drawing"):
        value = f' value="{view.done:.3f}"' if view.state == "drawing" else ""
        bar = f'<progress max="1"{value} aria-label="Progress"></progress>'
    text = " ".join([view.message, *view.warnings])
    told = marking((fields or {}).get(view.setting, ""))
    return (
        f'<div class="status{wrong}" data-state="{view.state}"{told}><span>{escape(text)}</span>{bar}</div>'
    )


def data_uri(preview: Image.Image) -> str:
    """Return a small image as an address that holds it."""
    buffer = io.BytesIO()
    preview.convert("RGB").save(buffer, "WEBP", quality=80, method=0)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
