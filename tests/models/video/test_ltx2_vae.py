"""The LTX-2 VAE against diffusers' AutoencoderKLLTX2Video on tiny random weights, and what it refuses."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTX2Video

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video.ltx2_vae import LTX2_VAE, LTX2VAE, LTX23_VAE
from tests.models.video.ltx2_pair import (
    EXACT,
    NEWER,
    TINY,
    TOLERANCE,
    build,
    build_pair,
    codes,
    paddings,
    sample,
)
from tests.models.video.wan_pair import relative_error

VARIANTS = {
    f"{mode}, {'causal' if causal else 'both ways'}, {'residual' if residual else 'plain'}": {
        **TINY,
        **paddings(mode),
        "encoder_causal": causal,
        "decoder_causal": causal,
        "upsample_residual": residual,
    }
    for mode, causal, residual in product(("zeros", "reflect"), (True, False), (True, False))
} | {"newer": NEWER}


@pytest.mark.parametrize("name", VARIANTS)
def test_encode_and_decode_match_diffusers_in_float64(name: str):
    ours, theirs = build_pair(VARIANTS[name])
    causal = {"causal": None}  # as the model's own settings say
    clip, latents = sample(9), codes(3)
    with torch.no_grad():
        wanted = theirs.encode(clip, **causal).latent_dist
        frames = theirs.decode(latents, **causal).sample
        assert relative_error(ours.encode(clip), wanted.mode()) < EXACT
        assert relative_error(ours.decode(latents), frames) < EXACT
    mean, variance = ours.moments(clip).detach().chunk(2, dim=1)  # with gradients: the whole at once
    assert relative_error(mean, wanted.mean) < EXACT
    assert relative_error(variance, wanted.logvar) < EXACT
    assert torch.equal(ours.encode(clip), mean)
    assert relative_error(ours.decode(latents).detach(), frames) < EXACT


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 64, 64), (9, 64, 96), (25, 96, 64), (17, 32, 32)]
)
def test_odd_sizes_match_diffusers_in_float64(frames: int, height: int, width: int):
    ours, theirs = build_pair(TINY | (paddings("zeros") if height < 64 else {}))
    clip = sample(frames, height=height, width=width, batch=1 if frames > 9 else 2)
    with torch.no_grad():
        latents = theirs.encode(clip).latent_dist.mode()
        assert relative_error(ours.encode(clip), latents) < EXACT
        assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < EXACT


@pytest.mark.parametrize("arguments", [TINY, NEWER], ids=["LTX-2", "LTX-2.3"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_encode_and_decode_match_diffusers_in_float32(arguments: dict[str, Any], chunk: int | None):
    wide = {"latent_channels": 32, "block_out_channels": (64, 64, 64, 64)}
    ours, theirs = build_pair(arguments | wide, torch.float32)
    clip, latents = sample(17, torch.float32, 64, 64), torch.randn(1, 32, 3, 4, 4)
    with torch.no_grad():
        got = ours.encode(clip, chunk=None if chunk is None else 8 * chunk)
        assert relative_error(got, theirs.encode(clip).latent_dist.mode()) < TOLERANCE
        assert relative_error(ours.decode(latents, chunk=chunk), theirs.decode(latents).sample) < TOLERANCE


def test_gradients_equal_those_of_diffusers_and_reach_every_parameter():
    ours, theirs = build_pair(TINY)
    clip, latents = sample(9), codes(2)
    (ours.moments(clip).square().mean() + ours.decode(latents).square().mean()).backward()
    moments = theirs.encode(clip).latent_dist.parameters
    (moments.square().mean() + theirs.decode(latents).sample.square().mean()).backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert relative_error(parameter.grad, wanted[name].grad) < 1e-9, name
        assert parameter.grad.any(), name


def test_bfloat16_stays_bfloat16_and_close():
    model, clip, latents = build(torch.float32), sample(9, torch.float32), codes(2, torch.float32)
    with torch.no_grad():
        wanted = model.encode(clip), model.decode(latents)
        half = model.bfloat16()
        got = half.encode(clip.bfloat16()), half.decode(latents.bfloat16())
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()


def test_no_latent_depends_on_later_frames_and_no_frame_of_a_causal_decoder_on_later_latents():
    model, clip, latents = build(decoder_causal=True), sample(17), codes(3)
    with torch.no_grad():
        assert relative_error(model.encode(clip[:, :, :9]), model.encode(clip)[:, :, :2]) < EXACT
        assert relative_error(model.decode(latents[:, :, :2]), model.decode(latents)[:, :, :9]) < EXACT
        seeing = build()
        assert relative_error(seeing.decode(latents[:, :, :2]), seeing.decode(latents)[:, :, :9]) > 1e-3


@pytest.mark.parametrize(
    ("config", "parameters", "decoder"),
    [(LTX2_VAE, 1_222_479_601, 528_400_000), (LTX23_VAE, 726_105_969, None)],
    ids=["LTX-2", "LTX-2.3"],
)
def test_the_published_sizes_have_the_published_parameters(config, parameters, decoder):
    with torch.device("meta"):
        ours = LTX2VAE(config)
        arguments = {name: value for name, value in config.to_diffusers().items() if name[0] != "_"}
        theirs = AutoencoderKLLTX2Video(**arguments)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    if decoder:
        assert abs(sum(p.numel() for p in ours.decoder.parameters()) / decoder - 1) < 1e-3
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert (config.compression, config.frame_rule.per_latent) == (32, 8)


def test_normalised_latents_have_the_stored_mean_and_deviation_taken_out():
    model, latents = build(), codes()
    assert torch.equal(model.normalise(latents), latents)  # before statistics are known
    model.latents_mean.copy_(torch.arange(8.0))
    model.latents_std.copy_(torch.arange(8.0) + 0.5)
    got = model.normalise(latents)
    assert torch.allclose(got[:, 3], (latents[:, 3] - 3) / 3.5)
    assert torch.allclose(model.denormalise(got), latents)


@pytest.mark.parametrize(("frames", "nearest"), [(2, "1 or 9"), (8, "1 or 9"), (80, "73 or 81")])
def test_other_numbers_of_frames_are_refused_with_the_nearest_ones(frames: int, nearest: str):
    with torch.no_grad(), pytest.raises(SizeError, match=f"{nearest} frames"):
        build().encode(sample(frames, height=32, width=32))


@pytest.mark.parametrize("grad", [True, False])
def test_wrong_shapes_and_missing_halves_are_refused(grad: bool):
    model = build()
    with torch.set_grad_enabled(grad):
        for shape in [(1, 3, 9, 32), (1, 4, 9, 32, 32), (1, 3, 9, 48, 32), (1, 3, 9, 32, 0)]:
            with pytest.raises(SizeError, match=re.escape(str(shape))):
                model.encode(torch.zeros(shape, dtype=torch.float64))
        for shape in [(1, 8, 2, 2), (1, 7, 2, 2, 2), (1, 8, 0, 2, 2)]:
            with pytest.raises(SizeError, match=re.escape(str(shape))):
                model.decode(torch.zeros(shape, dtype=torch.float64))
        with pytest.raises(SettingsError, match="only its decoder"):
            build(part="decoder").encode(sample(1))
        with pytest.raises(SettingsError, match="only its encoder"):
            build(part="encoder").decode(codes())
    with pytest.raises(SettingsError, match="'both', 'encoder' or 'decoder'"):
        LTX2VAE(model.config, "half")  # pyright: ignore[reportArgumentType]


def test_what_is_too_small_to_reflect_is_refused_with_the_least_size():
    with pytest.raises(SizeError, match="at least 64x64 pixels"):
        build().decode(codes(height=1))
    with pytest.raises(SizeError, match="64x32 pixels: use at least 64 a side"):
        build(**paddings("reflect")).encode(sample(1, height=32))
