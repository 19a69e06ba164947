"""Names of the Wan VAE: the official ones against diffusers' converter, one by one, and refused sizes."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.models.video.wan_vae import WAN_VAE, WanVAE, WanVAEConfig
from sanakit.weights.find.resolve import identify, resolve
from sanakit.weights.layouts.wan_vae import official_name, open_wan_vae


def test_official_names_become_ours_by_diffusers_converter():
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    with torch.device("meta"):
        ours = WanVAE(WAN_VAE).state_dict()
    marked = {name: torch.tensor(float(i)) for i, name in enumerate(ours)}
    official = {official_name(name, WAN_VAE.depth): value for name, value in marked.items()}
    assert len(official) == len(ours)
    assert convert_wan_vae_to_diffusers(official) == marked


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ("quant_conv.bias", "conv1.bias"),
        ("post_quant_conv.weight", "conv2.weight"),
        ("encoder.conv_in.weight", "encoder.conv1.weight"),
        ("encoder.down_blocks.3.conv_shortcut.weight", "encoder.downsamples.3.shortcut.weight"),
        ("encoder.down_blocks.5.time_conv.bias", "encoder.downsamples.5.time_conv.bias"),
        ("encoder.mid_block.resnets.1.norm2.gamma", "encoder.middle.2.residual.3.gamma"),
        ("decoder.mid_block.attentions.0.to_qkv.weight", "decoder.middle.1.to_qkv.weight"),
        ("decoder.up_blocks.2.upsamplers.0.resample.1.bias", "decoder.upsamples.11.resample.1.bias"),
        ("decoder.up_blocks.3.resnets.2.conv2.weight", "decoder.upsamples.14.residual.6.weight"),
        ("decoder.norm_out.gamma", "decoder.head.0.gamma"),
        ("decoder.conv_out.bias", "decoder.head.2.bias"),
    ],
)
def test_a_parameter_has_this_official_name(ours: str, official: str):
    assert official_name(ours, 2) == official


def test_stages_of_one_block_are_numbered_in_a_row_too():
    assert (
        official_name("decoder.up_blocks.1.resnets.0.conv1.bias", 1) == "decoder.upsamples.3.residual.2.bias"
    )
    assert (
        official_name("decoder.up_blocks.1.upsamplers.0.time_conv.bias", 1)
        == "decoder.upsamples.5.time_conv.bias"
    )


@pytest.mark.parametrize("part", ["both", "encoder", "decoder"])
def test_either_layout_is_known_by_its_names(part):
    with torch.device("meta"):
        names = list(WanVAE(WAN_VAE, part).state_dict())
    assert identify(names) == ("video_autoencoder", "diffusers")
    assert identify(official_name(name, 2) for name in names) == ("video_autoencoder", "official")


def test_a_lone_file_of_another_size_is_refused(tmp_path):
    small = WanVAE(WanVAEConfig(width=4, depth=1))
    torch.save(small.state_dict(), tmp_path / "small.pth")
    with pytest.raises(WeightsError, match="unpublished size: load it from a diffusers folder"):
        open_wan_vae(resolve(tmp_path / "small.pth"))
    torch.save({"encoder.stages.0.weight": torch.zeros(1)}, tmp_path / "image.pth")
    with pytest.raises(WeightsError, match="not a video autoencoder"):
        open_wan_vae(resolve(tmp_path / "image.pth"))
