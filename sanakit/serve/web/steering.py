"""The part of the page for images that steer: a ControlNet of the server, an image or sketch, its settings.

Without ControlNets nothing of it is laid out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.hints import HINT_KINDS
from sanakit.images.opening import flatten
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.engine.steering import NamedControl
from sanakit.serve.web.parts import make_image_editor

OFF, OWN_KIND = "", ""  # values of the choices "Off" and "As trained"
MOST_SCALE = 2.0  # as far as the slider goes
Offered = Mapping[str, Collection[str]]  # model -> names of its ControlNets


@dataclass(frozen=True, kw_only=True, slots=True)
class Steering:
    """The components, none where no model has a ControlNet.

    inputs: those whose values `control_of` takes, in its order. changed: group and ControlNet.
    """

    offered: Offered
    inputs: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, Any]:
        """The components by the settings that are refused at them."""
        names = ("control", "control_kind", "control_scale", "control_start", "control_end")
        return dict(zip(names, self.inputs[1:], strict=True)) if self.inputs else {}

    def offered_by(self, model: str) -> dict[Any, Any]:
        """Return the changes that offer a model's own ControlNets."""
        if not self.changed:
            return {}
        names = [*self.offered[model]]
        new = gr.update(visible=bool(names)), gr.update(choices=_choices(names), value=OFF)
        return dict(zip(self.changed, new, strict=True))


def make_steering(offered: Offered, turns: DecodingTurns) -> Steering:
    """Lay out the components, if a model has a ControlNet.

    offered: the first model is chosen. turns: that images wait for before they are decoded.
    """
    if not any(offered.values()):
        return Steering(offered=offered)
    names = next(iter(offered.values()))
    with gr.Accordion("Steer by an image", open=False, visible=bool(names), elem_id="steering") as group:
        net = gr.Dropdown(
            _choices(names),
            value=OFF,
            label="ControlNet",
            elem_id="control-net",
            info="Choose one to have the image steer what is drawn.",
        )
        image = make_image_editor(
            turns,
            "Image or sketch",
            "control-image",
            height=320,
            brush=gr.Brush(default_size=4, colors=["#000000", "#ffffff", "#e5484d", "#3e63dd"]),
            placeholder="Drop an image, or draw",
        )
        kind = gr.Dropdown(
            [("As trained", OWN_KIND), *((kind, kind) for kind in HINT_KINDS)],
            value=OWN_KIND,
            label="Hint",
            elem_id="control-kind",
            info="Made of the image; as-is: it is a hint already.",
        )
        scale = gr.Slider(0, MOST_SCALE, 1.0, step=0.05, label="Control strength", elem_id="control-scale")
        with gr.Row():
            info = "Share of the steps."
            start = gr.Slider(0, 1, 0.0, step=0.05, label="From", info=info, elem_id="control-start")
            end = gr.Slider(0, 1, 1.0, step=0.05, label="Until", info=info, elem_id="control-end")
    inputs = [net, image, kind, scale, start, end]
    return Steering(offered=offered, inputs=inputs, changed=[group, net])


def control_of(values: Sequence[Any]) -> list[NamedControl]:
    """Return the control that the components' values ask for, none where it is off. Raises SettingsError."""
    if not values or values[0] in (OFF, None):
        return []
    name, edited, kind, scale, start, end = values
    image = (edited or {}).get("composite") or (edited or {}).get("background")
    if image is None or _is_blank(image):
        sentence = "Drop or draw an image to steer by, or set ControlNet to Off."
        raise SettingsError(sentence, setting="control")
    return [named(name, image, kind, scale, start, end)]


def named(
    name: str,
    image: Image.Image,
    kind: str | None,
    scale: float | None,
    start: float | None,
    end: float | None,
) -> NamedControl:
    """Return a control image for a ControlNet by its name; a sketch is laid on white. None: as usual."""
    if kind not in (None, OWN_KIND, *HINT_KINDS):
        sentence = f"The hint {kind[:50]!r} does not exist: use {', '.join(HINT_KINDS)}."
        raise SettingsError(sentence, setting="control_kind")
    shown: Any = kind or None
    return {"name": name, "image": flatten(image), "kind": shown, "scale": scale, "start": start, "end": end}


def _is_blank(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getbbox() is None


def _choices(names: Collection[str]) -> list[tuple[str, str]]:
    return [("Off", OFF), *((name, name) for name in names)]
