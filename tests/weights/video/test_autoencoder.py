"""One loader for autoencoders of images and of clips: folders of diffusers, official files, halves."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.models.dc_ae import DCAE
from sanakit.models.video.wan_vae import WAN_VAE, WanVAE, WanVAEConfig
from sanakit.weights import (
    describe,
    load_autoencoder,
    load_image_autoencoder,
    save_autoencoder,
    save_official_autoencoder,
)

SMALL = WanVAEConfig(width=4, depth=1, latent_channels=2, latents_mean=(0.0, 1.0), latents_std=(1.0, 2.0))


@pytest.fixture(scope="module")
def small() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(SMALL).eval()


def equal(got: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    state = got.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


@torch.no_grad()
def test_a_folder_written_by_diffusers_gives_equal_results_here(tmp_path):
    from diffusers import AutoencoderKLWan

    arguments = {name: value for name, value in SMALL.to_diffusers().items() if name != "_class_name"}
    theirs = AutoencoderKLWan(**arguments).eval()
    theirs.save_pretrained(tmp_path / "vae")
    vae = load_autoencoder(tmp_path / "vae")
    assert isinstance(vae, WanVAE)
    clip = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    latents = theirs.encode(clip).latent_dist.mode()
    torch.testing.assert_close(vae.encode(clip, chunk=4), latents, rtol=0, atol=2e-5)
    torch.testing.assert_close(vae.decode(latents, chunk=1), theirs.decode(latents).sample, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_folder_that_we_write_opens_in_diffusers(small, tmp_path):
    from diffusers import AutoencoderKLWan

    save_autoencoder(tmp_path / "vae", small)
    theirs = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    assert equal(theirs, small.state_dict())
    assert tuple(theirs.config.latents_std) == SMALL.latents_std
    again = load_autoencoder(tmp_path / "vae")
    assert equal(again, small.state_dict())
    assert again.config == SMALL


def test_an_official_file_comes_back_bit_for_bit(small, tmp_path, monkeypatch):
    monkeypatch.setattr("sanakit.weights.layouts.wan_vae.WAN_VAE", SMALL)
    path = save_official_autoencoder(tmp_path / "Wan2.1_VAE.pth", small)
    assert "encoder.downsamples.0.residual.0.gamma" in torch.load(path)
    assert equal(load_autoencoder(path), small.state_dict())
    assert "shortcut" in " ".join(torch.load(path))


@pytest.mark.parametrize(("half", "other"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_a_half_has_its_own_tensors_only(half, other, small, tmp_path):
    save_autoencoder(tmp_path / "vae", small)
    part = load_autoencoder(tmp_path / "vae", part=half)
    assert getattr(part, other) is None
    assert equal(part, {n: t for n, t in small.state_dict().items() if n in part.state_dict()})
    assert len(part.state_dict()) > 20


def test_missing_and_unknown_tensors_are_named(small, tmp_path):
    from safetensors.torch import load_file, save_file

    file = save_autoencoder(tmp_path / "vae", small) / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    save_file({n: t for n, t in whole.items() if n != "decoder.conv_in.bias"}, file)
    with pytest.raises(WeightsError, match=r"lacks 1 .*decoder\.conv_in\.bias"):
        load_autoencoder(tmp_path / "vae")
    save_file({**whole, "decoder.extra": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"does not have: decoder\.extra"):
        load_autoencoder(tmp_path / "vae")


def test_a_config_of_another_architecture_or_type_is_refused(small, tmp_path):
    config = save_autoencoder(tmp_path / "vae", small) / "config.json"
    content = json.loads(config.read_text())
    for field, value in [("is_residual", True), ("base_dim", "x"), ("temperal_downsample", [1, 0, 1])]:
        config.write_text(json.dumps({**content, field: value}))
        with pytest.raises(WeightsError, match=field):
            load_autoencoder(tmp_path / "vae")
    config.write_text(json.dumps({**content, "scale_factor_spatial": 16}))
    with pytest.warns(UserWarning, match="scale_factor_spatial = 16, but its lists make it 8"):
        load_autoencoder(tmp_path / "vae")


@torch.no_grad()
def test_weights_left_in_their_file_compute_as_their_float32_copy(small, tmp_path):
    save_autoencoder(tmp_path / "vae", small, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped, wide = (load_autoencoder(tmp_path / "vae", mapped=flag) for flag in (True, False))
    assert mapped.decoder.conv_in.weight.dtype == torch.bfloat16
    latents = torch.randn(1, 2, 2, 2, 2)
    torch.testing.assert_close(mapped.decode(latents, chunk=1), wide.decode(latents, chunk=1))


def test_images_keep_their_autoencoder_and_clips_are_refused_there(tiny, small, tmp_path):
    save_autoencoder(tmp_path / "image", tiny.autoencoder)
    assert isinstance(load_autoencoder(tmp_path / "image"), DCAE)
    save_autoencoder(tmp_path / "clip", small)
    with pytest.raises(WeightsError, match="holds a AutoencoderKLWan, not the AutoencoderDC"):
        load_image_autoencoder(tmp_path / "clip")


def test_a_folder_of_it_is_described(small, tmp_path):
    save_autoencoder(tmp_path / "vae", small)
    (part,) = describe(tmp_path / "vae").parts
    assert (part.kind, part.layout, part.size) == ("video_autoencoder", "diffusers", "Wan VAE f8t4c2")
    assert part.parameters == sum(p.numel() for p in small.parameters())
    assert part.missing == part.unexpected == ()


@pytest.mark.slow
def test_the_published_size_loads_strictly_from_either_layout(tmp_path):
    model = WanVAE(WAN_VAE)
    path = save_official_autoencoder(tmp_path / "Wan2.1_VAE.pth", model, dtype="bfloat16")
    vae = load_autoencoder(path, dtype="float32")
    assert isinstance(vae, WanVAE)
    assert sum(p.numel() for p in vae.parameters()) == 126_892_531
    save_autoencoder(tmp_path / "vae", vae, dtype="bfloat16")
    assert equal(load_autoencoder(tmp_path / "vae", dtype="float32"), vae.state_dict())
