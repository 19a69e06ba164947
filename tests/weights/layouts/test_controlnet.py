"""A ControlNet's names and fields against diffusers' SanaControlNetModel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import SanaControlNetModel

from sanakit.errors import WeightsError
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import SanaConfig
from sanakit.weights.layouts.controlnet import (
    controlnet_pairs,
    diffusers_computes,
    order_of,
    read_config,
    write_config,
)

CONFIG = SanaConfig(depth=3, width=16, cross_heads=2, head_dim=4, text_width=8, latent_channels=4)


@pytest.mark.parametrize("positions", [None, 1.0, 2.0])
def test_diffusers_builds_the_same_tensors_of_our_config(positions):
    config = replace(CONFIG, position_interpolation=positions)
    theirs = SanaControlNetModel.from_config(write_config(config, "native"))
    with torch.device("meta"):
        ours = ControlNet(config, "diffusers").state_dict()
    shapes = {}
    for sources, (target,) in controlnet_pairs(ours, "diffusers"):
        whole = ours[target].shape
        shapes |= {name: (whole[0] // len(sources), *whole[1:]) for name in sources}
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    expected = {name: shape for name, shape in expected.items() if not name.endswith("pos_embed")}
    assert shapes == expected


def test_a_config_is_read_back_and_absent_fields_are_diffusers_own():
    assert read_config(write_config(CONFIG, "native"), "x") == CONFIG
    config = read_config({"_class_name": "SanaControlNetModel"}, "x")
    assert (config.depth, config.width, config.cross_heads) == (7, 2240, 20)


@pytest.mark.parametrize("changed", [{"qk_norm": True}, {"guidance_embed": True, "time_scale": 1.0}])
def test_what_diffusers_cannot_compute_has_a_class_of_ours(changed):
    config = replace(CONFIG, **changed)
    assert not diffusers_computes(config)
    written = write_config(config, "native")
    assert written["_class_name"] == "SanakitControlNet"
    assert read_config(written, "x") == config
    assert write_config(CONFIG, "native")["_class_name"] == "SanaControlNetModel"


def test_the_order_is_told_or_the_layouts_own():
    assert order_of({}, "official", "x") == "native"
    assert order_of({}, "diffusers", "x") == "diffusers"
    assert order_of({"control_order": "native"}, "diffusers", "x") == "native"
    with pytest.raises(WeightsError, match="control_order = 'sideways'"):
        order_of({"control_order": "sideways"}, "diffusers", "x")
