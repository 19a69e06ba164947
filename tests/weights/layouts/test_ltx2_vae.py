"""Names of the LTX-2 VAE: the official ones against diffusers' converter, one by one, and refused sizes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from sanakit.errors import WeightsError
from sanakit.models.video.ltx2_vae import LTX2_VAE, LTX2VAE, LTX23_VAE, LTX2VAEConfig
from sanakit.weights.find.resolve import identify, resolve
from sanakit.weights.layouts.ltx2_vae import (
    ltx2_vae_pairs,
    ltx2_vae_skipped,
    official_ltx2_name,
    open_ltx2_vae,
)

SMALL = LTX2VAEConfig(
    latent_channels=8,
    widths=(8, 8, 8, 8),
    depths=(1,) * 5,
    decoder_widths=(64, 32, 16),
    decoder_depths=(1,) * 4,
)


def names_of(config: LTX2VAEConfig, part="both") -> list[str]:
    with torch.device("meta"):
        return list(LTX2VAE(config, part).state_dict())


@pytest.mark.parametrize("prefix", ["", "vae."])
def test_official_names_become_ours_by_diffusers_converter(prefix: str):
    from diffusers.loaders.single_file_utils import convert_ltx2_vae_to_diffusers

    marked = {name: torch.tensor(float(i)) for i, name in enumerate(names_of(LTX2_VAE))}
    official = {prefix + official_ltx2_name(name, 4): value for name, value in marked.items()}
    assert len(official) == len(marked)
    official[f"{prefix}per_channel_statistics.mean-of-stds_over_std-of-means"] = torch.zeros(1)
    assert convert_ltx2_vae_to_diffusers(official) == marked


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ("encoder.conv_in.conv.weight", "encoder.conv_in.conv.weight"),
        (
            "encoder.down_blocks.0.resnets.3.conv2.conv.bias",
            "encoder.down_blocks.0.res_blocks.3.conv2.conv.bias",
        ),
        ("encoder.down_blocks.3.downsamplers.0.conv.conv.bias", "encoder.down_blocks.7.conv.conv.bias"),
        ("encoder.mid_block.resnets.1.conv1.conv.bias", "encoder.down_blocks.8.res_blocks.1.conv1.conv.bias"),
        ("decoder.mid_block.resnets.4.conv1.conv.bias", "decoder.up_blocks.0.res_blocks.4.conv1.conv.bias"),
        ("decoder.up_blocks.0.upsamplers.0.conv.conv.weight", "decoder.up_blocks.1.conv.conv.weight"),
        ("decoder.up_blocks.3.resnets.0.conv1.conv.bias", "decoder.up_blocks.8.res_blocks.0.conv1.conv.bias"),
        ("decoder.conv_out.conv.bias", "decoder.conv_out.conv.bias"),
        ("latents_mean", "per_channel_statistics.mean-of-means"),
        ("latents_std", "per_channel_statistics.std-of-means"),
    ],
)
def test_a_tensor_has_this_official_name(ours: str, official: str):
    assert official_ltx2_name(ours, 4) == official


@pytest.mark.parametrize("part", ["both", "encoder", "decoder"])
@pytest.mark.parametrize("config", [LTX2_VAE, LTX23_VAE], ids=["LTX-2", "LTX-2.3"])
def test_either_layout_is_known_by_its_names(config: LTX2VAEConfig, part: str):
    names = names_of(config, part)
    official = [official_ltx2_name(name, 4) for name in names]
    assert identify(names) == ("video_autoencoder", "diffusers")
    assert identify(official) == ("video_autoencoder", "official")
    whole = [f"vae.{name}" for name in official] + ["model.diffusion_model.patchify_proj.weight"]
    assert identify(whole) == ("video_autoencoder", "official")


def test_statistics_that_nothing_uses_are_skipped_by_name():
    unused = ["per_channel_statistics.channel", "per_channel_statistics.mean-of-stds"]
    assert list(ltx2_vae_skipped([*unused, "per_channel_statistics.mean-of-means", "latents_mean"])) == unused


def test_a_lone_file_of_another_size_is_refused_unless_its_config_lies_beside(tmp_path):
    from sanakit.weights import save_autoencoder

    small = LTX2VAE(SMALL)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match="unpublished size: load it from a diffusers folder"):
        open_ltx2_vae(resolve(tmp_path / "small.safetensors"))
    folder = save_autoencoder(tmp_path / "vae", small)
    files, layout, config = open_ltx2_vae(resolve(folder / "diffusion_pytorch_model.safetensors"))
    assert (layout, config, len(files.infos)) == ("diffusers", SMALL, len(small.state_dict()))
    torch.save({"encoder.stages.0.weight": torch.zeros(1)}, tmp_path / "image.pth")
    with pytest.raises(WeightsError, match="not a video autoencoder"):
        open_ltx2_vae(resolve(tmp_path / "image.pth"))


@pytest.mark.parametrize("layout", ["official", "diffusers"])
@pytest.mark.parametrize("config", [LTX2_VAE, LTX23_VAE], ids=["LTX-2", "LTX-2.3"])
def test_a_lone_file_of_a_published_size_is_known_by_its_names(config, layout, tmp_path):
    names = [theirs for (theirs,), _ in ltx2_vae_pairs(names_of(config), layout, config)]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "lone.safetensors")
    assert open_ltx2_vae(resolve(tmp_path / "lone.safetensors"))[1:] == (layout, config)
