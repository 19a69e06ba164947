"""The HTML of the tab of clips: what is there before the first one, and a strip of frames."""

from __future__ import annotations

from sanakit.serve.web.studio import View
from sanakit.serve.web.view import data_uri

EMPTY_VIDEO = (
    '<div class="empty"><b>Your clip appears here</b>'
    "<span>Write what happens, then press Draw or <kbd>Ctrl</kbd> <kbd>Enter</kbd>.</span></div>"
)


def strip_html(view: View) -> str:
    """Return frames of a finished clip side by side, from the first to the last."""
    shown = [image for image in view.previews if image is not None]
    cells = [
        f'<img alt="Frame {number} of {len(shown)} shown" src="{data_uri(image)}">'
        for number, image in enumerate(shown, 1)
    ]
    return f'<div class="strip">{"".join(cells)}</div>'
