"""The components of the tab of clips: words and settings, what a model offers for them, and the stage."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from sanakit.flow.guidance_kinds import PLAIN
from sanakit.images.image import Metadata
from sanakit.pipelines.video.chunk_request import FEW_STEP
from sanakit.pipelines.video.request import VideoSpec
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.web.kept.details import make_record
from sanakit.serve.web.panel import (
    make_buttons,
    make_models,
    make_negative,
    make_prompt,
    make_seed,
    make_sides,
    make_strengths,
    make_weights,
    reaching,
)
from sanakit.serve.web.parts import make_first_frame
from sanakit.serve.web.settings import CUSTOM, example
from sanakit.serve.web.video.settings import (
    SAMPLING,
    frames_label,
    is_distilled,
    most_frames,
    video_size_choices,
    video_sizes,
)
from sanakit.serve.web.video.view import EMPTY_VIDEO
from sanakit.weights.video.settings import MOST_MOTION

_IDS = "video-"  # begins the ids of this tab's components
AS_IMAGE = "Shape of the image"  # the size of a clip that begins with one


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipPanel:
    """Words and settings; those that make a `ClipWish` have the names of its fields."""

    column: gr.Column
    prompt: gr.Textbox
    draw: gr.Button
    cancel: gr.Button
    model: gr.Dropdown
    image: gr.Image
    frames: gr.Slider
    size: gr.Dropdown
    sides: gr.Row
    width: gr.Number
    height: gr.Number
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    drawn_seed: gr.State  # the one of the last drawing
    dice: gr.Button
    negative_prompt: gr.Textbox
    prompt_weights: gr.Checkbox
    motion: gr.Slider
    rate: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    guidance_kind: gr.Textbox
    solver: gr.Radio
    file: gr.File


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipDrawingArea:
    """The area where a clip appears: its middle while it is drawn, then a player and a strip of frames."""

    view: gr.HTML
    video: gr.Video  # of MP4
    animation: gr.Image  # of animated WebP
    strip: gr.HTML
    status: gr.HTML
    details: gr.Column
    download: gr.DownloadButton
    command: gr.Textbox
    data: gr.Code


def make_clip_panel(specs: dict[str, VideoSpec], turns: DecodingTurns) -> ClipPanel:
    """Lay out the words and settings. specs: by name, the first is chosen. turns: for decoding the image."""
    spec = next(iter(specs.values()))
    own, choices, sampled = spec.settings, video_size_choices(spec), not is_distilled(spec)
    with gr.Column(scale=4, min_width=320, elem_id="video-panel") as column:
        with gr.Column(elem_id="video-words"):
            prompt = make_prompt(example(spec.of_images()), _IDS)
            draw, cancel = make_buttons(_IDS)
        with gr.Column(elem_id="video-settings"):
            model = make_models(list(specs), _IDS)
            frames = gr.Slider(
                1,
                most_frames(spec),
                own.frames,
                step=spec.rule.per_latent,
                label=frames_label(spec, own.frames),
                elem_id="video-frames",
            )
            size = gr.Dropdown(choices, value=choices[0], label="Size", elem_id="video-size")
            sides, width, height = make_sides(own.shared, _IDS)
            seed, dice, keep_seed, drawn_seed = make_seed(_IDS)
            with gr.Accordion("Begin with an image", open=False, elem_id="video-begin"):
                image = make_first_frame(turns, "video-image", height=280, fullscreen=True)
            with gr.Accordion("More settings", open=False, elem_id="video-more"):
                negative_prompt = make_negative(_IDS, own.negative_prompt, visible=sampled)
                prompt_weights = make_weights(_IDS)
                motion = gr.Slider(
                    0,
                    MOST_MOTION,
                    own.score(own.shared.dialect),
                    step=1,
                    label="Motion",
                    elem_id="video-motion",
                    info="How much moves; 0 says nothing.",
                )
                rate = gr.Number(
                    float(own.rate),
                    label="Frames a second",
                    minimum=1,
                    maximum=60,
                    elem_id="video-rate",
                    info="Of the file; the model does not see it.",
                )
                steps, guidance = make_strengths([own.shared], _IDS, visible=sampled)
                guidance_kind = gr.Textbox(
                    own.shared.guidance_kind,
                    label="Kind of guidance",
                    elem_id="video-guidance-kind",
                    max_length=200,
                    info="cfg, apg or zero-star; interval=0.2-0.9, rescale=0.7.",
                    visible=sampled,
                )
                solver = gr.Radio(
                    ["dpm", "euler"],
                    value=own.shared.solver,
                    label="Solver",
                    elem_id="video-solver",
                    elem_classes="words",
                    visible=sampled,
                )
            with gr.Accordion("Settings from a clip", open=False, elem_id="video-from-clip"):
                file = gr.File(
                    label="Clip file with settings",
                    file_types=[".mp4", ".webm", ".webp", ".gif"],
                    type="filepath",
                    height=120,
                    elem_id="video-file",
                )
    found = locals()
    return ClipPanel(**{field.name: found[field.name] for field in fields(ClipPanel)})


def make_clip_stage() -> ClipDrawingArea:
    """Lay out the place where clips are drawn."""
    with gr.Column(scale=8, min_width=320, elem_id="video-right"):
        with gr.Column(elem_id="video-stage"):
            gr.HTML(EMPTY_VIDEO, elem_id="video-nothing")  # the style sheet shows it below nothing else
            view = gr.HTML("", elem_id="video-view", visible=False)
            video = gr.Video(
                label="Clip",
                show_label=False,
                visible=False,
                interactive=False,
                autoplay=True,
                loop=True,
                buttons=[],
                elem_id="video-player",
            )
            animation = gr.Image(
                label="Clip",
                show_label=False,
                type="filepath",
                image_mode=None,
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_id="video-animation",
            )
        strip = gr.HTML("", elem_id="video-strip", visible=False)
        status = gr.HTML("", elem_id="video-status")
        with gr.Column(visible=False, elem_id="video-details", elem_classes="details") as details:
            download = gr.DownloadButton("Download", elem_id="video-download", size="md", min_width=100)
            command, data = make_record("video")
    found = locals()
    return ClipDrawingArea(**{field.name: found[field.name] for field in fields(ClipDrawingArea)})


def clips_offered_by(spec: VideoSpec, panel: ClipPanel, *, image: bool) -> dict[Any, Any]:
    """Return the changes of a panel that offer a model's own sizes and settings, and its defaults.

    image: whether the clip is to begin with one.
    """
    own, sampled = spec.settings, not is_distilled(spec)
    values = {
        panel.negative_prompt: own.negative_prompt,
        panel.steps: own.shared.steps,
        panel.guidance: max(1, own.shared.guidance),
        panel.guidance_kind: own.shared.guidance_kind,
        panel.solver: own.shared.solver,
    }
    return {
        panel.prompt: gr.update(placeholder=example(spec.of_images())),
        panel.frames: gr.update(
            value=own.frames,
            maximum=most_frames(spec),
            step=spec.rule.per_latent,
            label=frames_label(spec, own.frames),
        ),
        panel.width: own.shared.width,
        panel.height: own.shared.height,
        panel.motion: own.score(own.shared.dialect),
        panel.rate: float(own.rate),
        **{part: gr.update(value=value, visible=sampled) for part, value in values.items()},
        **sizes_offered(spec, panel, image=image),
    }


def sizes_offered(spec: VideoSpec, panel: ClipPanel, *, image: bool) -> dict[Any, Any]:
    """Return the changes of a panel that offer a model's sizes; with an image, its shape first."""
    choices = [AS_IMAGE] * image + video_size_choices(spec)
    return {
        panel.size: gr.update(choices=choices, value=choices[0]),
        panel.sides: gr.update(visible=False),
    }


def sides_of(spec: VideoSpec, size: str) -> tuple[int, int] | None:
    """Return width and height of an offered size; None for one that is typed or the image's."""
    return video_sizes(spec).get(size)


def clip_restored_from(metadata: Metadata, spec: VideoSpec, panel: ClipPanel) -> dict[Any, Any]:
    """Return the changes of a panel that show what a clip was drawn with, by a model of this spec."""
    size = (metadata["width"], metadata["height"])
    choice = next((name for name, sides in video_sizes(spec).items() if sides == size), CUSTOM)
    choices = [*video_sizes(spec), CUSTOM] if choice == CUSTOM else video_size_choices(spec)
    frames, rate = int(metadata["frames"]), float(metadata["rate"])
    sampling = {}
    if not is_distilled(spec):
        told = {name: metadata[name] for name in SAMPLING if metadata.get(name) not in (None, FEW_STEP)}
        sampling = {"negative_prompt": "", "guidance_kind": str(PLAIN)} | told
        for name in ("steps", "guidance"):
            if name in told:
                sampling[name] = reaching(getattr(panel, name), float(told[name]))
    return {
        panel.prompt: metadata["prompt"],
        panel.prompt_weights: bool(metadata.get("prompt_weights", False)),
        panel.frames: gr.update(
            value=frames,
            maximum=max(frames, most_frames(spec)),
            step=spec.rule.per_latent,
            label=frames_label(spec, frames, rate),
        ),
        panel.size: gr.update(choices=choices, value=choice),
        panel.sides: gr.update(visible=choice == CUSTOM),
        panel.width: size[0],
        panel.height: size[1],
        panel.motion: metadata["motion"],
        panel.rate: rate,
        panel.seed: str(metadata.get("seed", "")),
        panel.keep_seed: "seed" in metadata,
        **{getattr(panel, name): value for name, value in sampling.items()},
    }
