"""The part of the page for adapters (LoRA): a weight for each that the server offers, of the chosen model.

Without adapters nothing of it is laid out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from sanakit.adapters.attach import checked_weight, recorded_uses
from sanakit.adapters.read import AdapterFile
from sanakit.images.image import Metadata

MOST = 2.0  # of either sign, as far as the sliders go
Offered = Mapping[str, Mapping[str, AdapterFile]]  # model -> name of an adapter -> its file


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSliders:
    """The components, none where the server has no adapter. sliders: by the adapter's name."""

    offered: Offered
    sliders: dict[str, gr.Slider] = field(default_factory=dict)
    unfit: list[Any] = field(default_factory=list)  # what is said of those that do not fit the model

    @property
    def inputs(self) -> list[Any]:
        """The components whose values `weights` takes."""
        return [*self.sliders.values()]

    @property
    def changed(self) -> list[Any]:
        """All components, which change with the model."""
        return [*self.unfit, *self.sliders.values()]

    def weights(self, model: str, values: Sequence[Any]) -> dict[str, float]:
        """Return the weights of a model's adapters that are on. values: of `inputs`. Raises SettingsError."""
        own = self.offered.get(model, {})
        told = {name: value for name, value in zip(self.sliders, values, strict=True) if name in own}
        return {name: checked_weight(name, value) for name, value in told.items() if value != 0}

    def offered_by(self, model: str, weights: Mapping[str, float] | None = None) -> dict[Any, Any]:
        """Return the changes that offer a model's own adapters, at these weights; others are off."""
        own, weights = self.offered.get(model, {}), weights or {}
        new = {
            slider: gr.update(visible=name in own, value=weights.get(name, 0.0))
            for name, slider in self.sliders.items()
        }
        return {told: gr.update(**_unfit(self.offered, model)) for told in self.unfit} | new

    def recorded(self, metadata: Metadata, model: str) -> tuple[dict[str, float], list[str]]:
        """Return the weights of a model's adapters that an image was drawn with, and what is told of others.

        They are found by their fingerprints, whatever they are called here.
        """
        names = {file.fingerprint: name for name, file in self.offered.get(model, {}).items()}
        found, notes = {}, []
        for use in recorded_uses(metadata.get("adapters", "")):
            file = f"{use.file[:100]} at {use.weight:g}"
            if use.fingerprint not in names:
                notes.append(f"It was drawn with {file}, missing here; without it another image is drawn.")
            elif abs(use.weight) > MOST:
                notes.append(f"It was drawn with {file}, beyond the slider, which ends at {MOST:g}.")
            else:
                found[names[use.fingerprint]] = use.weight
        return found, notes

    def restored_from(self, metadata: Metadata, model: str) -> tuple[dict[Any, Any], list[str]]:
        """Return the changes that show the adapters an image was drawn with, and what is told of others."""
        found, notes = self.recorded(metadata, model)
        return self.offered_by(model, found), notes


def make_adapters(offered: Offered) -> AdapterSliders:
    """Lay out the components, if a model has an adapter. offered: the first model is chosen."""
    names = list(dict.fromkeys(name for own in offered.values() for name in own))
    if not names:
        return AdapterSliders(offered=offered)
    model = next(iter(offered))
    own = offered[model]
    with gr.Accordion("Adapters", open=False, elem_id="adapters"):
        sliders = {
            name: gr.Slider(
                -MOST,
                MOST,
                0.0,
                step=0.01,
                label=name,
                visible=name in own,
                elem_id=f"adapter-{number}",
                info="" if number else "0 is off, 1 as trained; several are summed.",
            )
            for number, name in enumerate(names)
        }
        unfit = gr.HTML(**_unfit(offered, model), elem_id="adapters-unfit", elem_classes="hint")
    return AdapterSliders(offered=offered, sliders=sliders, unfit=[unfit])


def _unfit(offered: Offered, model: str) -> dict[str, Any]:
    """Return text and visibility of what is said of adapters that do not fit a model."""
    others = {name for own in offered.values() for name in own if name not in offered[model]}
    names = ", ".join(sorted(others))
    return {"value": escape(f"Not for {model}: {names}."), "visible": bool(others)}
