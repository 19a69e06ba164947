"""config.json of an AutoencoderKLLTX2Video: read, written, refused where it asks for what is not built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sanakit.errors import SettingsError
from sanakit.models.video.ltx2_config import CAUSAL_CLASS, LTX2_VAE, LTX23_VAE, LTX2VAEConfig


def test_an_empty_config_has_diffusers_defaults():
    import inspect

    from diffusers import AutoencoderKLLTX2Video

    defaults = inspect.signature(AutoencoderKLLTX2Video).parameters
    fields = {name: one.default for name, one in defaults.items()}
    assert LTX2VAEConfig.from_diffusers({}) == LTX2VAEConfig.from_diffusers(fields)
    assert LTX2VAEConfig.from_diffusers({}) == replace(LTX2_VAE, decoder_causal=True)


@pytest.mark.parametrize("config", [LTX2_VAE, LTX23_VAE], ids=["LTX-2", "LTX-2.3"])
def test_the_published_sizes_are_written_and_read_as_they_are(config: LTX2VAEConfig):
    written = config.to_diffusers()
    assert LTX2VAEConfig.from_diffusers(written) == config
    assert (written["spatial_compression_ratio"], written["temporal_compression_ratio"]) == (32, 8)
    assert config.told_apart(written) == []


def test_lists_of_the_decoder_run_from_the_finest_in_the_file_but_one():
    written = LTX23_VAE.to_diffusers()
    assert written["decoder_block_out_channels"] == [256, 512, 512, 1024]
    assert written["decoder_layers_per_block"] == [4, 6, 4, 2, 2]
    assert written["upsample_factor"] == [2, 2, 1, 2]
    assert written["upsample_type"] == ["spatiotemporal", "spatiotemporal", "temporal", "spatial"]


def test_the_causal_class_is_read_with_its_own_order_of_steps():
    written = LTX23_VAE.to_diffusers()
    steps = written.pop("upsample_type")
    came = {
        **written,
        "_class_name": CAUSAL_CLASS,
        "decoder_causal": True,
        "decoder_upsample_type": steps[::-1],
    }
    assert LTX2VAEConfig.from_diffusers(came) == replace(LTX23_VAE, decoder_causal=True)
    older = {**LTX2_VAE.to_diffusers(), "decoder_upsample_type": None}
    assert LTX2VAEConfig.from_diffusers(older) == LTX2_VAE


def test_one_flag_stands_for_every_block():
    came = {**LTX2_VAE.to_diffusers(), "upsample_residual": False, "spatio_temporal_scaling": True}
    assert LTX2VAEConfig.from_diffusers(came).up_residuals == (False, False, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timestep_conditioning", True),
        ("decoder_inject_noise", [False, True, False, False]),
        ("decoder_inject_noise", True),
        ("spatio_temporal_scaling", [True, True, True, False]),
        ("decoder_spatio_temporal_scaling", False),
        ("down_block_types", ["LTXVideoDownBlock3D"] * 4),
        ("patch_size_t", 2),
        ("in_channels", 4),
        ("out_channels", 4),
        ("scaling_factor", 0.5),
    ],
)
def test_what_is_not_built_here_is_refused_by_its_field(field: str, value: Any):
    with pytest.raises(SettingsError, match=f"{field} is "):
        LTX2VAEConfig.from_diffusers({field: value})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers_per_block": [1, 1]}, "4 steps"),
        ({"block_out_channels": [256, 512]}, "its widths have"),
        ({"upsample_residual": [True]}, "its residuals have"),
        ({"upsample_factor": [2, 2]}, "its factors have"),
        ({"downsample_type": ["conv"] * 4}, "'conv' is unknown"),
        ({"decoder_spatial_padding_mode": "circular"}, "'circular' is unknown"),
        ({"block_out_channels": [256, 512, 1024, 1028]}, "from 1024 to 1028"),
        ({"decoder_block_out_channels": [256, 512, 1026]}, "513|1026"),
        ({"decoder_block_out_channels": [256, 256, 512]}, "but 256 follow|divides"),
        ({"upsample_type": ["spatial"] * 3}, "multiplies them by 1 and 8"),
        ({"decoder_block_out_channels": [1, 2, 4], "upsample_residual": True}, "residual"),
    ],
)
def test_lists_and_widths_that_do_not_fit_together_are_refused(fields: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said):
        LTX2VAEConfig.from_diffusers(fields)


def test_ratios_that_contradict_the_lists_are_told():
    told = LTX2_VAE.told_apart({"spatial_compression_ratio": 64, "temporal_compression_ratio": None})
    assert told == ["says spatial_compression_ratio = 64, but its lists make it 32, which is used."]
