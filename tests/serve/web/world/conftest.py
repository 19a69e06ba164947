"""The tab of worlds, laid out as on a page of its own."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

import gradio as gr

from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.web.world.tab import WorldTab


@pytest.fixture
def tab(world_engine: WorldEngine) -> WorldTab:
    made = WorldTab(world_engine, DecodingTurns())
    with gr.Blocks(analytics_enabled=False) as blocks:
        made.lay_out(blocks)
    return made
