"""The components of the tab of worlds: what a walk begins with, and its stage, which is plain JavaScript."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import gradio as gr

from sanakit.pipelines.video.request import VideoSpec
from sanakit.pipelines.world.request import FOV, FOV_RANGE
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.web.panel import make_negative, make_prompt, make_seed, make_strengths, make_weights
from sanakit.serve.web.parts import make_first_frame
from sanakit.serve.web.video.settings import is_distilled, video_sizes

_IDS = "world-"  # begins the ids of this tab's components
STAGE = Path(__file__).with_name("stage.html")
CSS = Path(__file__).with_name("world.css")
TURN, STEP = "A and D turn", "A and D step aside"
DIALECTS = {TURN: "turning", STEP: "strafing"}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPanel:
    """The controls of a walk's beginning, and where it is told."""

    image: gr.Image
    prompt: gr.Textbox
    enter: gr.Button
    fov: gr.Slider
    size: gr.Dropdown
    keys: gr.Radio
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    drawn_seed: gr.State  # the one of the last walk
    dice: gr.Button
    negative_prompt: gr.Textbox
    prompt_weights: gr.Checkbox
    steps: gr.Slider
    guidance: gr.Slider
    status: gr.HTML
    walk: gr.Textbox  # a walk that was entered, as JSON; for the stage, and not seen


def make_world(spec: VideoSpec, turns: DecodingTurns) -> WorldPanel:
    """Lay out the tab. turns: for decoding the image."""
    own, choices, sampled = spec.settings, list(video_sizes(spec)), not is_distilled(spec)
    with gr.Column(scale=4, min_width=320, elem_id="world-panel"):
        with gr.Column(elem_id="world-words"):
            image = make_first_frame(turns, "world-image", height=240, fullscreen=False)
            prompt = make_prompt("an old harbour", _IDS)
            enter = gr.Button("Enter world", variant="primary", elem_id="world-enter")
            status = gr.HTML("", elem_id="world-status")
        with gr.Column(elem_id="world-settings"):
            fov = gr.Slider(
                *FOV_RANGE,
                FOV,
                step=1,
                label="Angle of view",
                elem_id="world-fov",
                info="Degrees that the image spans across; a wrong angle bends the scene.",
            )
            size = gr.Dropdown(choices, value=choices[0], label="Size", elem_id="world-size")
            keys = gr.Radio(
                list(DIALECTS), value=TURN, label="Keys", elem_id="world-dialect", elem_classes="words"
            )
            seed, dice, keep_seed, drawn_seed = make_seed(_IDS)
            with gr.Accordion("More settings", open=False, elem_id="world-more"):
                negative_prompt = make_negative(_IDS, own.negative_prompt, visible=sampled)
                prompt_weights = make_weights(_IDS)
                steps, guidance = make_strengths([own.shared], _IDS, visible=sampled)
    with gr.Column(scale=8, min_width=320, elem_id="world-right"):
        gr.HTML(STAGE.read_text(encoding="utf-8"), elem_id="world-walk")
        walk = gr.Textbox(visible="hidden", label="Walk", elem_id="world-entered")
    found = locals()
    return WorldPanel(**{field.name: found[field.name] for field in fields(WorldPanel)})
