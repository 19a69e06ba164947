"""What the tab of clips offers for a model: all that it can do, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

pytest.importorskip("gradio")

from sanakit.serve.web.settings import CUSTOM
from sanakit.serve.web.video.panel import AS_IMAGE, clip_restored_from, clips_offered_by, sides_of
from sanakit.serve.web.video.settings import SAMPLING
from sanakit.serve.web.video.tab import VideoTab

SETTINGS: dict[str, Any] = {
    **{"prompt": "a cat", "model": "tiny-video", "steps": 7, "guidance": 2.5, "solver": "euler"},
    **{"seed": 2**63 - 1, "width": 96, "height": 64, "frames": 49, "motion": 3, "rate": 12.0},
}


def test_the_models_defaults_are_set_at_first(tab: VideoTab) -> None:
    panel = tab.panel
    values = {field.name: getattr(getattr(panel, field.name), "value", None) for field in fields(panel)}
    told = {name: values[name] for name in ("frames", "steps", "guidance", "motion", "rate", "width")}
    assert told == {**{"frames": 9, "steps": 3, "guidance": 3.0, "motion": 0, "rate": 16.0, "width": 96}}
    assert (panel.frames.minimum, panel.frames.step, panel.frames.maximum) == (1, 4, 45)
    assert panel.model.visible is False
    assert sides_of(tab.clips.specs["tiny-video"], str(values["size"])) == (96, 64)


@pytest.mark.parametrize("causal", [False, True])
def test_a_distilled_model_offers_no_settings_that_it_has_no_use_for(tab: VideoTab, causal: bool) -> None:
    spec = replace(tab.clips.specs["tiny-video"], causal=causal)
    changes = clips_offered_by(spec, tab.panel, image=False)
    assert {changes[getattr(tab.panel, name)]["visible"] for name in SAMPLING} == {not causal}


def test_the_shape_of_an_image_is_offered_where_there_is_one(tab: VideoTab) -> None:
    spec = tab.clips.specs["tiny-video"]
    for image in (False, True):
        size = clips_offered_by(spec, tab.panel, image=image)[tab.panel.size]
        assert (AS_IMAGE in size["choices"], size["value"] == AS_IMAGE) == (image, image)


def test_settings_of_a_clip_are_shown_also_beyond_what_the_slider_has(tab: VideoTab) -> None:
    panel, spec = tab.panel, tab.clips.specs["tiny-video"]
    shown = clip_restored_from(SETTINGS, spec, panel)
    assert (shown[panel.frames]["value"], shown[panel.frames]["maximum"]) == (49, 49)
    assert shown[panel.frames]["label"] == "Frames (4 s)"
    assert (shown[panel.seed], shown[panel.keep_seed]) == (str(2**63 - 1), True)
    assert (shown[panel.steps], shown[panel.solver], shown[panel.negative_prompt]) == (7, "euler", "")
    assert (shown[panel.sides]["visible"], shown[panel.size]["value"]) == (False, "Own  96 × 64")
    typed = clip_restored_from(SETTINGS | {"width": 128}, spec, panel)
    assert (typed[panel.sides]["visible"], typed[panel.size]["value"], typed[panel.width]) == (
        True,
        CUSTOM,
        128,
    )
    few = clip_restored_from(SETTINGS | {"solver": "few-step"}, replace(spec, causal=True), panel)
    assert not {getattr(panel, name) for name in SAMPLING} & few.keys()
