"""The components of the page, laid out; what they do is tied to them in `page.py`.

panel: words and settings.   editor: the image to start from.   stage: what is being drawn, or was.
overview: what was drawn before.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from sanakit.errors import SanaError, SettingsError
from sanakit.images.opening import open_picture
from sanakit.pipelines.image_to_image import STRENGTH
from sanakit.pipelines.request import ModelSpec
from sanakit.serve.web.settings import (
    CUSTOM,
    MOST_GUIDANCE,
    MOST_PICTURES,
    MOST_STEPS,
    NO_STYLE,
    example,
    sizes,
    styles,
)
from sanakit.serve.web.studio import BEYOND, MOST_MARGIN, PAINTED, WHOLE
from sanakit.serve.web.view import EMPTY

CREATE, EDIT, GALLERY = "Create", "Edit", "Gallery"
MOST_PROMPT = 4000  # characters
_PAINT = ("#e5484d", 0.7)  # of the brush: colour and opacity; red stands out from most images


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Words and settings; those that make a `Wish` have the names of its fields."""

    column: gr.Column
    prompt: gr.Textbox
    style: gr.Radio
    draw: gr.Button
    cancel: gr.Button
    size: gr.Dropdown
    sides: gr.Row
    width: gr.Number
    height: gr.Number
    num_images: gr.Number
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    drawn_seed: gr.State  # the one of the last drawing
    dice: gr.Button
    negative_prompt: gr.Textbox
    steps: gr.Slider
    guidance: gr.Slider
    solver: gr.Radio
    model: gr.Dropdown
    png: gr.File


@dataclass(frozen=True, kw_only=True, slots=True)
class Editor:
    """The image to start from, and what of it may change."""

    picture: gr.ImageEditor
    what: gr.Radio
    strength: gr.Slider
    margins: gr.Row
    left: gr.Number
    top: gr.Number
    right: gr.Number
    bottom: gr.Number


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """One image's settings, and what can be done with it."""

    group: gr.Column
    download: gr.DownloadButton
    restore: gr.Button
    edit: gr.Button
    command: gr.Textbox
    data: gr.Code
    shown: gr.State  # the image's name in the history


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where the image is drawn: previews, then the images."""

    column: gr.Column
    view: gr.HTML
    pictures: gr.Gallery
    status: gr.HTML
    names: gr.State  # of the images on it
    details: Details


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What was drawn before, the newest first, and one of them large."""

    group: gr.Column
    grid: gr.Gallery
    nothing: gr.HTML
    picture: gr.Image
    names: gr.State  # of the images in the grid
    details: Details


def make_panel(specs: dict[str, ModelSpec]) -> Panel:
    """Lay out the words and settings. specs: by name, the first is chosen."""
    name = next(iter(specs))
    own, choices = specs[name].settings, list(sizes(specs[name]))
    with gr.Column(scale=4, min_width=320, elem_id="panel") as column:
        with gr.Column(elem_id="words"):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder=example(specs[name]),
                lines=3,
                max_lines=8,
                max_length=MOST_PROMPT,
                autofocus=True,
                elem_id="prompt",
            )
            style = gr.Radio(
                list(styles(specs[name])),
                value=NO_STYLE,
                label="Style",
                elem_id="style",
                elem_classes="words",
            )
            with gr.Row(elem_id="buttons"):
                draw = gr.Button("Draw", variant="primary", elem_id="draw", scale=3, min_width=120)
                cancel = gr.Button("Cancel", elem_id="cancel", interactive=False, scale=1, min_width=90)
        with gr.Column(elem_id="settings"):
            model = gr.Dropdown(
                list(specs), value=name, label="Model", elem_id="model", visible=len(specs) > 1
            )
            with gr.Row():
                size = gr.Dropdown(
                    [*choices, CUSTOM], value=choices[0], label="Size", elem_id="size", min_width=180, scale=3
                )
                num_images = gr.Number(
                    1,
                    minimum=1,
                    maximum=MOST_PICTURES,
                    precision=0,
                    label="Pictures",
                    elem_id="count",
                    min_width=80,
                    scale=1,
                )
            with gr.Row(visible=False) as sides:
                width = gr.Number(own.width, label="Width", precision=0, elem_id="width", min_width=100)
                height = gr.Number(own.height, label="Height", precision=0, elem_id="height", min_width=100)
            with gr.Row(elem_id="seed-row"):
                seed = gr.Textbox(
                    label="Seed",
                    placeholder="a new one",
                    max_length=20,
                    elem_id="seed",
                    min_width=100,
                    scale=3,
                )
                dice = gr.Button("⚄", elem_id="dice", scale=0, min_width=44)
                keep_seed = gr.Checkbox(
                    label="Keep", elem_id="keep-seed", container=False, scale=0, min_width=80
                )
            drawn_seed = gr.State("")
            with gr.Accordion("More settings", open=False, elem_id="more"):
                negative_prompt = gr.Textbox(
                    label="What not to draw", max_length=MOST_PROMPT, elem_id="negative", lines=1, max_lines=4
                )
                steps = gr.Slider(
                    1,
                    MOST_STEPS,
                    own.steps,
                    step=1,
                    label="Steps",
                    elem_id="steps",
                    info="More: finer, slower.",
                )
                guidance = gr.Slider(
                    1,
                    MOST_GUIDANCE,
                    own.guidance,
                    step=0.1,
                    label="Guidance",
                    elem_id="guidance",
                    info="More keeps to the words; 1 is off, in half the time.",
                )
                solver = gr.Radio(
                    ["dpm", "euler", "scm"],
                    value=own.solver,
                    label="Solver",
                    elem_id="solver",
                    elem_classes="words",
                    info="scm: of SANA-Sprint models alone.",
                )
            with gr.Accordion("Settings from an image", open=False, elem_id="from-picture"):
                png = gr.File(
                    label="PNG that was drawn here or by sana",
                    file_types=[".png"],
                    type="filepath",
                    height=120,
                    elem_id="png",
                )
    found = locals()
    return Panel(**{field.name: found[field.name] for field in fields(Panel)})


def make_editor() -> Editor:
    """Lay out the editor of the image to start from; the style sheet shows it in the mode for it."""
    with gr.Column(elem_id="editor"):
        picture = gr.ImageEditor(
            label="Image to start from",
            type="pil",
            image_mode="RGBA",
            format="png",
            sources=["upload", "clipboard"],
            transforms=(),
            layers=False,
            brush=gr.Brush(
                default_size="auto",
                colors=[_PAINT],
                default_color=_PAINT,
                color_mode="fixed",
            ),
            elem_id="source",
            height=480,
            placeholder="Drop an image here, or choose one",
            buttons=["fullscreen"],
        )
        picture.convert_and_format_image = _checked_layer
        what = gr.Radio(
            [WHOLE, PAINTED, BEYOND],
            value=WHOLE,
            label="What may change",
            elem_id="what",
            elem_classes="words",
        )
        strength = gr.Slider(
            0,
            1,
            STRENGTH,
            step=0.05,
            label="Strength",
            elem_id="strength",
            info="0 keeps the image, 1 draws it anew.",
        )
        with gr.Row(visible=False, elem_id="margins") as margins:
            left, top, right, bottom = (
                gr.Number(
                    0,
                    label=f"{side}, pixels",
                    precision=0,
                    minimum=0,
                    maximum=MOST_MARGIN,
                    step=32,
                    elem_id=f"margin-{side.lower()}",
                    min_width=110,
                )
                for side in ("Left", "Top", "Right", "Bottom")
            )
    found = locals()
    return Editor(**{field.name: found[field.name] for field in fields(Editor)})


def make_stage() -> Stage:
    """Lay out the place where images are drawn."""
    with gr.Column(elem_id="stage-column") as column:
        with gr.Column(elem_id="stage"):
            view = gr.HTML(EMPTY, elem_id="view")
            pictures = gr.Gallery(
                label="Pictures",
                show_label=False,
                visible=False,
                preview=True,
                object_fit="contain",
                buttons=["fullscreen"],
                interactive=False,
                elem_id="pictures",
            )
        status = gr.HTML("", elem_id="status")
        names = gr.State([])
        details = make_details("stage")
    return Stage(column=column, view=view, pictures=pictures, status=status, names=names, details=details)


def make_overview() -> Overview:
    """Lay out the gallery of what was drawn before; hidden at first."""
    with gr.Column(visible=False, elem_id="overview") as group:
        nothing = gr.HTML(
            '<div class="empty"><b>Nothing here yet</b><span>What you draw is kept here.</span></div>',
            visible=False,
        )
        with gr.Row(elem_id="overview-body"):
            grid = gr.Gallery(
                label="History",
                show_label=False,
                columns=5,
                object_fit="cover",
                allow_preview=False,
                height="auto",
                buttons=[],
                interactive=False,
                elem_id="grid",
                scale=3,
            )
            with gr.Column(scale=2, min_width=320):
                picture = gr.Image(
                    label="Chosen image",
                    show_label=False,
                    type="filepath",
                    image_mode=None,
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                    elem_id="chosen",
                )
                details = make_details("chosen")
        names = gr.State([])
    return Overview(group=group, grid=grid, nothing=nothing, picture=picture, names=names, details=details)


def make_details(where: str) -> Details:
    """Lay out one image's settings and buttons; hidden at first. where: begins their ids."""
    with gr.Column(visible=False, elem_id=f"{where}-details", elem_classes="details") as group:
        with gr.Row():
            download = gr.DownloadButton("Download", elem_id=f"{where}-download", size="md", min_width=100)
            restore = gr.Button("Use settings", size="md", elem_id=f"{where}-restore", min_width=100)
            edit = gr.Button("Edit", size="md", elem_id=f"{where}-edit", min_width=100)
        command = gr.Textbox(
            label="Command that draws it again",
            interactive=False,
            lines=1,
            max_lines=6,
            buttons=["copy"],
            elem_id=f"{where}-command",
            elem_classes="mono",
        )
        with gr.Accordion("Settings as JSON", open=False):
            data = gr.Code(
                language="json",
                label="Settings",
                show_label=False,
                interactive=False,
                lines=1,
                show_line_numbers=False,
                wrap_lines=True,
                buttons=["copy"],
                elem_id=f"{where}-data",
            )
        shown = gr.State("")
    return Details(
        group=group, download=download, restore=restore, edit=edit, command=command, data=data, shown=shown
    )


def source_and_mask(value: dict | None) -> tuple[Image.Image, Image.Image | None]:
    """Return the editor's image, and where it was painted over (white). Raises SettingsError without it."""
    if not value or value.get("background") is None:
        raise SettingsError("Choose an image to start from first: drop it on the field, or press its button.")
    picture, mask = value["background"], None
    for layer in value.get("layers") or []:
        painted = layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha else 0)
        if painted.size != picture.size:
            painted = painted.resize(picture.size, Image.Resampling.NEAREST)
        mask = painted if mask is None else ImageChops.lighter(mask, painted)
    return picture, mask


def _checked_layer(file: Any, flatten_on_white: bool = False) -> Image.Image | None:
    """Decode a layer of the editor, in place of Gradio's own way, which does not look at its size before."""
    if file is None:
        return None
    try:
        raw = file if isinstance(file, bytes | bytearray | memoryview) else Path(file.path).read_bytes()
        return open_picture(io.BytesIO(raw), "The image").convert("RGBA")
    except SanaError as error:
        raise gr.Error(escape(str(error)), title="Not possible", print_exception=False) from None
