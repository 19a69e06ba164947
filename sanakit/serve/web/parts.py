"""The layout of the page's components; `page.py` ties functions to them.

editor: the image to start from.   stage: what is being drawn, or was.   recent: the newest images below it.
Words and settings are in `panel.py`, older images in `kept/`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from sanakit.errors import SanaError, SettingsError
from sanakit.images.opening import in_srgb, open_image, upright
from sanakit.serve.engine.decoding import DecodingTurns, header_size
from sanakit.serve.web.kept.details import Details, make_details
from sanakit.serve.web.kept.tiles import make_tiles
from sanakit.serve.web.messages import sentence_at
from sanakit.serve.web.studio import BEYOND, MOST_MARGIN, PAINTED, WHOLE
from sanakit.serve.web.style import SWITCH_SHADE
from sanakit.serve.web.view import EMPTY

CREATE, EDIT, GALLERY, VIDEO, WORLD = "Create", "Edit", "Gallery", "Video", "World"
# Of the brush: colours and opacity. No one colour is seen on every image; the first is rare in all of them.
_PAINTS: list[str | tuple[str, float]] = [
    ("#d916c8", 0.75),
    ("#00c853", 0.75),
    ("#000000", 0.75),
    ("#ffffff", 0.75),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Editor:
    """The image to start from, and the part that may change."""

    image: gr.ImageEditor
    what: gr.Radio
    strength: gr.Slider
    margins: gr.Row
    left: gr.Number
    top: gr.Number
    right: gr.Number
    bottom: gr.Number


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawingArea:
    """The area where images appear: previews, then the images."""

    column: gr.Column
    view: gr.HTML
    images: gr.Gallery
    status: gr.HTML
    names: gr.State  # of the images on it
    recent: gr.HTML  # the newest images
    details: Details


def make_mode(modes: Sequence[str]) -> gr.Radio:
    """Return the choice of modes, which is laid out later; the first is chosen."""
    return gr.Radio(
        list(modes),
        value=modes[0],
        label="Mode",
        show_label=False,
        container=False,
        render=False,
        elem_id="mode",
        elem_classes="words",
    )


def make_head(mode: gr.Radio) -> None:
    """Lay out the title, the modes, and the button for light or dark."""
    with gr.Row(elem_id="head"):
        gr.HTML("<h1>sanakit</h1>", elem_id="title")
        mode.render()
        gr.Button("◐", elem_id="shade", size="sm", min_width=40).click(None, js=SWITCH_SHADE)


def make_editor(turns: DecodingTurns, at_first: float) -> Editor:
    """Lay out the editor of the image to start from; the style sheet shows it in the mode for it.

    turns: that its layers wait for before they are decoded.   at_first: the strength.
    """
    with gr.Column(elem_id="editor"):
        paints = gr.Brush(default_size="auto", colors=_PAINTS, default_color=_PAINTS[0], color_mode="fixed")
        image = make_image_editor(turns, "Image to start from", "source", height=480, brush=paints)
        what = gr.Radio(
            [WHOLE, PAINTED, BEYOND],
            value=WHOLE,
            label="Area to change",
            elem_id="what",
            elem_classes="words",
        )
        strength = gr.Slider(
            0,
            1,
            at_first,
            step=0.05,
            label="Strength",
            elem_id="strength",
            info="0 keeps the image, 1 redraws it.",
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


def make_image_editor(
    turns: DecodingTurns,
    label: str,
    elem_id: str,
    *,
    height: int,
    brush: gr.Brush,
    placeholder: str = "Drop or choose an image",
) -> gr.ImageEditor:
    """Lay out a field for an image to paint on; its layers are decoded in turns. height: pixels."""
    image = gr.ImageEditor(
        label=label,
        type="pil",
        image_mode="RGBA",
        format="png",
        sources=["upload", "clipboard"],
        transforms=(),
        layers=False,
        brush=brush,
        elem_id=elem_id,
        height=height,
        placeholder=placeholder,
        buttons=["fullscreen"],
    )
    image.convert_and_format_image = _in_turn(turns, image)  # pyright: ignore[reportAttributeAccessIssue]
    return image


def make_first_frame(turns: DecodingTurns, elem_id: str, *, height: int, fullscreen: bool) -> gr.Image:
    """Lay out the field of the image that a clip or a walk begins with; its value is in RGBA.

    No editor: Gradio's has no canvas where nothing can be painted. height: in pixels. fullscreen: whether it
    has a button for that.
    """
    image = gr.Image(
        label="First frame",
        type="pil",
        sources=["upload", "clipboard"],
        elem_id=elem_id,
        height=height,
        placeholder="Drop or choose an image",
        buttons=["fullscreen"] if fullscreen else [],
    )
    image.preprocess = _in_turn(turns, image)
    return image


def make_stage() -> DrawingArea:
    """Lay out the place where images are drawn."""
    with gr.Column(elem_id="stage-column") as column:
        with gr.Column(elem_id="stage"):
            gr.HTML(EMPTY, elem_id="nothing")  # the style sheet shows it below nothing else
            view = gr.HTML("", elem_id="view", visible=False)
            images = gr.Gallery(
                label="Images",
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
        recent = make_tiles(elem_id="recent")
        details = make_details("stage")
    found = locals()
    return DrawingArea(**{field.name: found[field.name] for field in fields(DrawingArea)})


def source_and_mask(value: dict | None) -> tuple[Image.Image, Image.Image | None]:
    """Return the editor's image, and where it was painted over (white). Raises SettingsError without it."""
    if not value or value.get("background") is None:
        sentence = "Choose an image to start from: drop it on the field, or press its button."
        raise SettingsError(sentence, setting="image")
    image, mask = value["background"], None
    for layer in value.get("layers") or []:
        painted = layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha else 0)
        if painted.size != image.size:
            painted = painted.resize(image.size, Image.Resampling.NEAREST)
        mask = painted if mask is None else ImageChops.lighter(mask, painted)
    return image, mask


def chosen_name(names: list[str], chosen: gr.SelectData) -> str:
    """Return the name of the image that was chosen of those shown. Raises SettingsError."""
    place = chosen.index
    if not isinstance(place, int) or not 0 <= place < len(names):
        raise SettingsError("This image is not shown any more: choose another one.")
    return names[place]


def _in_turn(turns: DecodingTurns, field: gr.components.Component) -> Callable[..., Image.Image | None]:
    """Return a function that decodes an image of a field once it is its turn; its errors are told there."""

    def decode_in_turn(file: Any, flatten_on_white: bool = False) -> Image.Image | None:
        is_data = isinstance(file, bytes | bytearray | memoryview)
        place = io.BytesIO(file) if is_data else getattr(file, "path", "")
        width, height = header_size(place)
        try:
            with turns.turn(width * height):
                return _checked_layer(file)
        except SanaError as error:
            sentence = sentence_at(str(error), field)
            raise gr.Error(sentence, title="Not possible", print_exception=False) from None

    return decode_in_turn


def _checked_layer(file: Any) -> Image.Image | None:
    """Decode a layer of the editor, in place of Gradio's own way, which does not look at its size before."""
    if file is None:
        return None
    if getattr(file, "path", file) is None:  # an address, or the image itself as text
        raise SettingsError("The image did not come as a file: upload it.")
    raw = file if isinstance(file, bytes | bytearray | memoryview) else Path(file.path).read_bytes()
    return in_srgb(upright(open_image(io.BytesIO(raw), "The image"))).convert("RGBA")
