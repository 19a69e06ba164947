"""The tab of clips, laid out as on a page of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio")

import gradio as gr

from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.web.history import History
from sanakit.serve.web.video.tab import VideoTab


@pytest.fixture
def tab(clip_engine: ClipEngine, tmp_path: Path) -> VideoTab:
    made = VideoTab(clip_engine, History(ImageStore(tmp_path / "pictures")), DecodingTurns())
    with gr.Blocks(analytics_enabled=False):
        made.lay_out()
    return made
