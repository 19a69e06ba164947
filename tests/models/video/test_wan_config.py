"""config.json of an AutoencoderKLWan: read, written, and refused where another architecture is meant."""

from __future__ import annotations

from typing import Any

import pytest

from sanakit.errors import SettingsError
from sanakit.models.video.wan_config import WAN_VAE, WanVAEConfig


def test_an_empty_config_is_the_published_size():
    assert WanVAEConfig.from_diffusers({}) == WAN_VAE
    assert WAN_VAE.widths == (96, 192, 384, 384)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("is_residual", True),
        ("patch_size", 2),
        ("attn_scales", [0.5]),
        ("dropout", 0.1),
        ("in_channels", 12),
        ("out_channels", 12),
        ("decoder_base_dim", 256),
    ],
)
def test_another_architecture_of_the_class_is_refused_by_its_field(field: str, value: Any):
    with pytest.raises(SettingsError, match=f"{field} is "):
        WanVAEConfig.from_diffusers({field: value})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperal_downsample": [True]}, "3 steps"),
        ({"base_dim": 1}, "stages of 1 channel"),
        ({"latents_std": [0.0] * 16}, "not above 0"),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(fields: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said):
        WanVAEConfig.from_diffusers(fields)


def test_factors_that_contradict_the_lists_are_told():
    config = WanVAEConfig.from_diffusers({"dim_mult": [1, 2], "temperal_downsample": [True]})
    told = config.told_apart({"scale_factor_spatial": 8, "scale_factor_temporal": 2})
    assert told == ["says scale_factor_spatial = 8, but its lists make it 2, which is used."]
    assert config.told_apart({"scale_factor_spatial": None}) == []
