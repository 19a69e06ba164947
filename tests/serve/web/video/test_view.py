"""The strip of frames as HTML."""

from __future__ import annotations

import re

import pytest
from PIL import Image

pytest.importorskip("gradio")

from sanakit.serve.web.studio import View
from sanakit.serve.web.video.view import strip_html


def test_a_strip_shows_its_frames_in_turn_and_says_which_they_are() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    html = strip_html(View(state="done", message="", previews=[*frames, None]))
    assert re.findall(r'alt="([^"]*)"', html) == [f"Frame {number} of 3 shown" for number in (1, 2, 3)]
    assert len(set(re.findall(r'src="data:image/webp;base64,([^"]+)"', html))) == 3
