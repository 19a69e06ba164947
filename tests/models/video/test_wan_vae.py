"""The Wan VAE against diffusers' AutoencoderKLWan on tiny random weights, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video.wan_vae import WAN_VAE, WanVAE, WanVAEConfig
from tests.models.video.wan_pair import (
    EXACT,
    POCKET,
    TINY,
    TOLERANCE,
    build,
    build_pair,
    relative_error,
    sample,
)


@pytest.mark.usefixtures("doubled_in_place")
@pytest.mark.parametrize("frames", [1, 9])
def test_encode_and_decode_match_diffusers_in_float64(frames: int):
    ours, theirs = build_pair(TINY, torch.float64)
    clip = sample(frames)
    with torch.no_grad():
        latents = theirs.encode(clip).latent_dist.mode()
        frames_of_theirs = theirs.decode(3 * latents).sample
        assert relative_error(ours.encode(clip), latents) < EXACT
        assert relative_error(ours.decode(3 * latents), frames_of_theirs) < EXACT
    assert relative_error(ours.encode(clip).detach(), latents) < EXACT  # with gradients: the whole at once
    assert relative_error(ours.decode(3 * latents).detach(), frames_of_theirs) < EXACT
    assert frames == 1 or frames_of_theirs.abs().max() == 1  # values are cut off
    assert relative_error(ours.draw(3 * latents).detach().clamp(-1, 1), frames_of_theirs) < EXACT


@pytest.mark.parametrize("chunk", [None, 1])
def test_encode_and_decode_match_diffusers_in_float32(chunk: int | None):
    ours, theirs = build_pair(TINY, torch.float32)
    clip, latents = sample(17, torch.float32), torch.randn(2, 4, 5, 2, 3)
    with torch.no_grad():
        frames_per_call = None if chunk is None else 4 * chunk
        wanted = theirs.encode(clip).latent_dist.mode()
        assert relative_error(ours.encode(clip, chunk=frames_per_call), wanted) < TOLERANCE
        assert relative_error(ours.decode(latents, chunk=chunk), theirs.decode(latents).sample) < TOLERANCE


def test_bfloat16_stays_bfloat16_and_close():
    model, clip = build(dtype=torch.float32), sample(9, torch.float32)
    with torch.no_grad():
        latents, half = model.encode(clip), build().bfloat16()
        frames = model.decode(latents)
        got = half.encode(clip.bfloat16()), half.decode(latents.bfloat16())
    assert got[0].dtype == got[1].dtype == torch.bfloat16
    assert relative_error(got[0].float(), latents) < 0.05
    assert (got[1].float() - frames).pow(2).mean().sqrt() < 0.06 * frames.pow(2).mean().sqrt()


@pytest.mark.usefixtures("doubled_in_place")
def test_gradients_match_diffusers_and_reach_every_parameter():
    ours, theirs = build_pair(TINY, torch.float64)
    weights = torch.randn(1, 3, 5, 16, 24, dtype=torch.float64)

    def gradients(model: Any, decode: Any) -> dict[str, torch.Tensor]:
        latents = torch.linspace(-1, 1, 4 * 2 * 2 * 3, dtype=torch.float64).view(1, 4, 2, 2, 3)
        latents.requires_grad_()
        (decode(latents) * weights).sum().backward()
        return {"input": latents.grad, **{n: p.grad for n, p in model.decoder.named_parameters()}}

    got, wanted = gradients(ours, ours.decode), gradients(theirs, lambda z: theirs.decode(z).sample)
    assert {name: relative_error(got[name], wanted[name]) < 1e-9 for name in wanted} == dict.fromkeys(
        wanted, True
    )
    ours.zero_grad()
    ours.encode(sample(5)).pow(2).sum().backward()
    assert [name for name, p in ours.encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("arguments", [{}, TINY, POCKET])
def test_state_dict_names_shapes_and_config_equal_diffusers(arguments: dict[str, Any]):
    config = WanVAEConfig.from_diffusers(arguments)
    with torch.device("meta"):
        ours, theirs = WanVAE(config), AutoencoderKLWan(**arguments)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    written = config.to_diffusers()
    assert WanVAEConfig.from_diffusers(written) == config
    wanted = {name: value for name, value in theirs.config.items() if name in written}
    factors = {
        "scale_factor_spatial": config.compression,
        "scale_factor_temporal": config.frame_rule.per_latent,
    }
    assert {**wanted, **factors, "_class_name": "AutoencoderKLWan"} == written


def test_the_published_size_has_126_9_million_parameters():
    with torch.device("meta"):
        model = WanVAE(WAN_VAE)
    assert sum(p.numel() for p in model.parameters()) == 126_892_531
    assert sum(p.numel() for p in model.decoder.parameters()) == 73_295_331
    assert (WAN_VAE.compression, WAN_VAE.frame_rule.per_latent) == (8, 4)


def test_normalised_latents_have_the_mean_and_deviation_of_the_config_taken_out():
    model, latents = build(), torch.randn(1, 4, 2, 3, 3, dtype=torch.float64)
    got = model.normalise(latents)
    assert torch.allclose(got[:, 0], (latents[:, 0] - 0.5) / 0.5)
    assert torch.allclose(got[:, 3], (latents[:, 3] - 2.0) / 4.0)
    assert torch.allclose(model.denormalise(got), latents)
    lacking = build(WanVAEConfig.from_diffusers({**TINY, "latents_mean": [0.0] * 3}))
    with pytest.raises(SettingsError, match="3 means and 4 deviations for 4 latent channels"):
        lacking.normalise(latents)


@pytest.mark.parametrize(
    ("frames", "nearest"), [(0, "1 or 5"), (2, "1 or 5"), (16, "13 or 17"), (18, "17 or 21")]
)
def test_other_numbers_of_frames_are_refused_with_the_nearest_ones(frames: int, nearest: str):
    with torch.no_grad(), pytest.raises(SizeError, match=f"{nearest} frames" if frames else "must have"):
        build().encode(sample(frames, height=8, width=8))


@pytest.mark.parametrize("grad", [True, False])
def test_wrong_shapes_and_missing_halves_are_refused(grad: bool):
    model = build()
    with torch.set_grad_enabled(grad):
        for shape in [(1, 3, 5, 8), (1, 4, 5, 8, 8), (1, 3, 5, 12, 8), (1, 3, 5, 8, 0)]:
            with pytest.raises(SizeError, match=re.escape(str(shape))):
                model.encode(torch.zeros(shape, dtype=torch.float64))
        for shape in [(1, 4, 2, 2), (1, 3, 2, 2, 2), (1, 4, 0, 2, 2)]:
            with pytest.raises(SizeError, match=re.escape(str(shape))):
                model.decode(torch.zeros(shape, dtype=torch.float64))
        with pytest.raises(SettingsError, match="only its decoder"):
            build(part="decoder").encode(sample(1))
        with pytest.raises(SettingsError, match="only its encoder"):
            build(part="encoder").decode(torch.zeros(1, 4, 1, 2, 2, dtype=torch.float64))
    with pytest.raises(SettingsError, match="'both', 'encoder' or 'decoder'"):
        WanVAE(model.config, "half")  # pyright: ignore[reportArgumentType]
