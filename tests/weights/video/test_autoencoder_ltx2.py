"""LTX-2's autoencoder loaded and saved: diffusers' folders, official files, whole checkpoints, halves."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import WeightsError
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.weights import describe, load_autoencoder, save_autoencoder, save_official_autoencoder
from tests.weights.layouts.test_ltx2_vae import SMALL
from tests.weights.video.test_autoencoder import equal

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def small() -> LTX2VAE:
    torch.manual_seed(0)
    model = LTX2VAE(SMALL).eval()
    model.latents_mean.normal_()
    model.latents_std.uniform_(0.5, 2)
    return model


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file alone of the small size is believed, as one of the published size."""
    monkeypatch.setattr("sanakit.weights.layouts.ltx2_vae.LTX2_VAE", SMALL)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_a_folder_written_by_diffusers_gives_equal_results_here(causal: bool, tmp_path):
    from diffusers import AutoencoderKLLTX2Video

    written = SMALL.to_diffusers() | {"decoder_causal": causal}
    del written["_class_name"]
    theirs = AutoencoderKLLTX2Video(**written).eval()
    theirs.latents_mean.normal_()
    theirs.save_pretrained(tmp_path / "vae")
    vae = load_autoencoder(tmp_path / "vae")
    assert isinstance(vae, LTX2VAE)
    assert vae.config.decoder_causal == causal
    clip = torch.rand(1, 3, 17, 64, 64) * 2 - 1
    latents = theirs.encode(clip).latent_dist.mode()
    torch.testing.assert_close(vae.encode(clip, chunk=8), latents, rtol=0, atol=2e-5)
    torch.testing.assert_close(vae.decode(latents, chunk=1), theirs.decode(latents).sample, rtol=0, atol=2e-5)
    torch.testing.assert_close(vae.latents_mean, theirs.latents_mean)


@torch.no_grad()
def test_a_folder_that_we_write_opens_in_diffusers(small, tmp_path):
    from diffusers import AutoencoderKLLTX2Video

    save_autoencoder(tmp_path / "vae", small)
    theirs, told = AutoencoderKLLTX2Video.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert equal(theirs, small.state_dict())
    assert not any(told.values())
    assert (theirs.spatial_compression_ratio, theirs.temporal_compression_ratio) == (32, 8)
    latents = torch.randn(1, 8, 2, 2, 2)
    torch.testing.assert_close(small.decode(latents), theirs.decode(latents).sample, rtol=0, atol=2e-5)
    again = load_autoencoder(tmp_path / "vae")
    assert equal(again, small.state_dict())
    assert again.config == SMALL


@pytest.mark.usefixtures("published")
def test_an_official_file_comes_back_bit_for_bit(small, tmp_path):
    path = save_official_autoencoder(tmp_path / "ltx2.safetensors", small)
    stored = load_file(path)
    assert {"encoder.down_blocks.1.conv.conv.bias", "per_channel_statistics.mean-of-means"} < set(stored)
    assert equal(load_autoencoder(path), small.state_dict())
    save_file({**stored, "per_channel_statistics.channel": torch.zeros(8)}, path)  # as the published file has
    assert equal(load_autoencoder(path), small.state_dict())


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_it_is_taken_out_of_a_whole_checkpoint_which_is_told(suffix: str, small, tmp_path):
    stored = load_file(save_official_autoencoder(tmp_path / "ltx2.safetensors", small))
    whole = {f"vae.{name}": tensor for name, tensor in stored.items()}
    whole |= {"model.diffusion_model.a": torch.zeros(3), "audio_vae.encoder.b": torch.zeros(2)}
    path = tmp_path / f"whole.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(whole, path)
    with pytest.warns(UserWarning, match="It holds 2 others, which are not used"):
        assert equal(load_autoencoder(path), small.state_dict())
    (part,) = describe(path).parts
    assert part.missing == part.unexpected == ()


@pytest.mark.parametrize(("half", "other"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_a_half_has_its_own_tensors_only(half: Any, other: str, small, tmp_path):
    save_autoencoder(tmp_path / "vae", small)
    part = load_autoencoder(tmp_path / "vae", part=half)
    assert getattr(part, other) is None
    assert equal(part, {n: t for n, t in small.state_dict().items() if not n.startswith(other)})
    assert {"latents_mean", "latents_std"} < set(part.state_dict())


def test_missing_and_unknown_tensors_are_named(small, tmp_path):
    file = save_autoencoder(tmp_path / "vae", small) / FILE
    whole = load_file(file)
    save_file({n: t for n, t in whole.items() if n != "decoder.conv_in.conv.bias"}, file)
    with pytest.raises(WeightsError, match=r"lacks 1 .*decoder\.conv_in\.conv\.bias"):
        load_autoencoder(tmp_path / "vae")
    save_file({**whole, "decoder.mid_block.time_embedder.x": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"does not have: decoder\.mid_block\.time_embedder\.x"):
        load_autoencoder(tmp_path / "vae")


def test_a_config_of_another_architecture_or_type_is_refused(small, tmp_path):
    config = save_autoencoder(tmp_path / "vae", small) / "config.json"
    content = json.loads(config.read_text())
    for field, value in [
        ("timestep_conditioning", True),
        ("decoder_inject_noise", [True] * 4),
        ("downsample_type", ["conv"] * 4),
        ("latent_channels", "x"),
        ("decoder_spatial_padding_mode", "circular"),
    ]:
        config.write_text(json.dumps({**content, field: value}))
        with pytest.raises(WeightsError, match=field):
            load_autoencoder(tmp_path / "vae")
    config.write_text(json.dumps({**content, "temporal_compression_ratio": 16}))
    with pytest.warns(UserWarning, match="temporal_compression_ratio = 16, but its lists make it 8"):
        load_autoencoder(tmp_path / "vae")
    config.write_text(json.dumps({**content, "_class_name": "AutoencoderKLCausalLTX2Video"}))
    assert isinstance(load_autoencoder(tmp_path / "vae"), LTX2VAE)


@torch.no_grad()
def test_16_bits_are_widened_statistics_too_or_left_in_their_file(small, tmp_path):
    save_autoencoder(tmp_path / "vae", small, dtype="bfloat16")
    mapped, wide = (load_autoencoder(tmp_path / "vae", mapped=flag) for flag in (True, False))
    assert isinstance(mapped, LTX2VAE)
    assert isinstance(wide, LTX2VAE)
    assert {tensor.dtype for tensor in wide.state_dict().values()} == {torch.float32}
    assert mapped.decoder.conv_in.conv.weight.dtype == torch.bfloat16
    assert mapped.latents_mean.dtype == torch.float32
    assert torch.equal(wide.latents_mean, small.latents_mean.bfloat16().float())
    latents = torch.randn(1, 8, 2, 2, 2)
    torch.testing.assert_close(mapped.decode(latents, chunk=1), wide.decode(latents, chunk=1))


def test_a_folder_of_it_is_described(small, tmp_path):
    save_autoencoder(tmp_path / "vae", small)
    (part,) = describe(tmp_path / "vae").parts
    assert (part.kind, part.layout, part.size) == ("video_autoencoder", "diffusers", "LTX-2 VAE f32t8c8")
    assert part.parameters == sum(tensor.numel() for tensor in small.state_dict().values())
    assert part.missing == part.unexpected == ()
