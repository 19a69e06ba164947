"""SANA-Video against diffusers' transformer on random weights; its sampling path against `forward`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import SettingsError, SizeError
from sanakit.models import layers
from sanakit.models.contracts import VelocityModel
from sanakit.models.video import sana_video
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.weights.save import diffusers_state
from tests.models.video.clips import (
    TINY,
    VARIANTS,
    apart,
    inputs,
    prepared,
    published,
    randomised,
    run_published,
)

TOLERANCE = 2e-5  # of the largest number compared: float32 sums in another order
PARAMETERS = {  # counted with diffusers' class of the published sizes
    "SANA_VIDEO_2B_480P": 2_056_862_144,
    "SANA_VIDEO_2B_720P": 2_057_148_928,
    "LONG_SANA_2B_480P": 2_056_862_144,
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_velocity_equals_diffusers(variant, batch):
    model = randomised(VARIANTS[variant])
    theirs = published(model)
    for grid in ((5, 8, 6), (1, 4, 4), (2, 2, 10)):
        given = inputs(model.config, batch, grid)
        expected = run_published(theirs, **given)
        assert expected.std() > 0.1
        assert apart(model(**given), expected) < TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_two_blocks_of_the_full_width_equal_diffusers():
    config = replace(sana_video.SANA_VIDEO_2B_480P, depth=2)
    model = randomised(config, std=0.03)
    given = inputs(config, grid=(3, 8, 6))
    expected = run_published(published(model), **given)
    assert expected.std() > 0.1
    assert apart(model(**given), expected) < TOLERANCE
    assert apart(model.velocity(given["latents"], given["t"], prepared(model, given)), expected) < TOLERANCE


@torch.no_grad()
def test_in_float64_only_diffusers_own_rounding_is_left():
    model = randomised(TINY).double()
    theirs = published(model).double()
    theirs.rope.freqs_cos, theirs.rope.freqs_sin = (
        table.double() for table in (theirs.rope.freqs_cos, theirs.rope.freqs_sin)
    )
    given = inputs(TINY)
    given["latents"], given["text"] = given["latents"].double(), given["text"].double()
    assert apart(model(**given), run_published(theirs, **given)) < 5e-7  # it rounds q, k, v to float32


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_time_for_each_frame_equals_diffusers_time_for_each_token(variant):
    model = randomised(VARIANTS[variant])
    given = inputs(model.config)
    given["t"] = torch.rand(2, 5)
    expected = run_published(published(model), **given)
    assert apart(model(**given), expected) < TOLERANCE
    constant = torch.tensor([0.3, 0.8])
    one = model(**given | {"t": constant})
    assert apart(model(**given | {"t": constant[:, None].expand(2, 5)}), one) < TOLERANCE
    assert apart(model(**given), one) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_diffusers(variant):
    model = randomised(VARIANTS[variant])
    theirs = published(model)
    given = inputs(model.config, grid=(3, 4, 6))
    weight = torch.randn_like(given["latents"])
    gradients = []
    for run in (model, lambda **given: run_published(theirs, **given)):
        leaves = {name: given[name].clone().requires_grad_() for name in ("latents", "text")}
        (run(**given | leaves) * weight).sum().backward()
        gradients.append({name: leaf.grad for name, leaf in leaves.items()})
    for name in ("latents", "text"):
        assert apart(gradients[0][name], gradients[1][name]) < TOLERANCE, name
    assert not gradients[0]["text"][~given["mask"]].any()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    largest = max(gradient.abs().max() for gradient in wanted.values())
    for name, found in diffusers_state(model).items():
        assert (found - wanted.pop(name)).abs().max() < TOLERANCE * largest, name
    assert not wanted


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("times", ["one", "each clip", "each frame", "frames of one clip"])
@torch.no_grad()
def test_prepared_prompts_give_the_velocity_of_forward(variant, times):
    model = randomised(VARIANTS[variant])
    given = inputs(model.config, batch=3)  # lengths 7, 1, 2: one prompt is a single token
    t, given["t"] = {
        "one": (0.7, torch.full((3,), 0.7)),
        "each clip": (given["t"], given["t"]),
        "each frame": (every := torch.rand(3, 5), every),
        "frames of one clip": (row := torch.rand(1, 5), row.expand(3, 5)),
    }[times]
    out = model.velocity(given["latents"], t, prepared(model, given))
    assert apart(out, model(**given)) < TOLERANCE


@pytest.mark.parametrize("times", [0.4, torch.tensor([0.9, 0.2]), torch.rand(2, 5)])
@torch.no_grad()
def test_latents_stand_for_every_sample_of_a_context_that_has_more(times):
    model = randomised(TINY)
    given = inputs(TINY, batch=4)
    latents, context = given["latents"][:2], prepared(model, given)
    shared = model.velocity(latents, times, context)
    each = times if isinstance(times, float) else torch.cat([times, times])
    assert apart(shared, model.velocity(latents.repeat(2, 1, 1, 1, 1), each, context)) < TOLERANCE


@pytest.mark.parametrize("values", [1, 900, 20_000])
@torch.no_grad()
def test_bands_change_nothing(monkeypatch, values):
    """Bands of single tokens, of parts of a frame and of several frames."""
    model = randomised(TINY)
    given, t = inputs(TINY), torch.rand(2, 5)
    whole = model.velocity(given["latents"], t, prepared(model, given))
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    assert apart(model.velocity(given["latents"], t, prepared(model, given)), whole) < TOLERANCE


@torch.no_grad()
def test_masked_text_is_as_if_it_were_not_there():
    model = randomised(TINY)
    given = inputs(TINY, batch=1)
    given["mask"][:, 4:] = False
    short = given | {"text": given["text"][:, :4], "mask": None}
    assert apart(model(**given), model(**short)) < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 8e-3)])
@torch.no_grad()
def test_16_bits_come_close_to_32(dtype, tolerance):
    model = randomised(TINY)
    given = inputs(TINY)
    wide = model(**given)
    half = randomised(TINY).to(dtype)
    half.load_state_dict(model.state_dict())
    short = given | {"latents": given["latents"].to(dtype), "text": given["text"].to(dtype)}
    out = half(**short)
    assert out.dtype == half.dtype == dtype
    assert ((out - wide).square().mean().sqrt() / wide.std()).item() < tolerance
    sampled = half.velocity(short["latents"], given["t"], prepared(half, short))
    assert ((sampled - wide).square().mean().sqrt() / wide.std()).item() < tolerance


@pytest.mark.parametrize("name", PARAMETERS)
def test_released_sizes_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = SanaVideo(getattr(sana_video, name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_a_new_model_does_not_mix_frames_yet_and_learns_to():
    torch.manual_seed(0)
    model = SanaVideo(replace(TINY, depth=1))
    model.init_weights()
    assert not any(block.mlp.t_conv.weight.any() for block in model.blocks)
    assert torch.all(model.attention_y_norm.weight == 0.01)
    model(**inputs(TINY)).square().mean().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


def test_it_is_a_velocity_model():
    model: VelocityModel = randomised(TINY)  # told by the type checker, too
    assert model.dtype == torch.float32
    assert [part.sample is not None for part in model.blocks] == [True, True]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 4, 5, 7, 6), "not a multiple of the patch"),
        ((1, 4, 5, 8, 5), "not a multiple of the patch"),
        ((1, 3, 5, 8, 6), "4 channels"),
        ((1, 4, 8, 6), "not a clip's"),
        ((1, 4, 0, 8, 6), "not a clip's"),
        ((1, 4, 65, 2, 2), "knows 64 positions"),
        ((1, 4, 1, 130, 2), "knows 64 positions"),
        ((1, 4, 1, 2, 130), "knows 64 positions"),
    ],
)
def test_latents_of_a_wrong_shape_are_refused_in_a_sentence(shape, said):
    model = randomised(TINY)
    given = inputs(TINY, batch=1)
    with pytest.raises(SizeError, match=said):
        model(**given | {"latents": torch.zeros(shape)})
    with pytest.raises(SizeError, match=said):
        model.velocity(torch.zeros(shape), 0.5, prepared(model, given))
    model(**given | {"latents": torch.zeros(1, 4, 64, 2, 2)})


@pytest.mark.parametrize("t", [torch.zeros(3), torch.zeros(2, 4), torch.zeros(2, 5, 1), torch.zeros(5)])
def test_times_of_a_wrong_shape_are_refused(t):
    model = randomised(TINY)
    given = inputs(TINY)
    with pytest.raises(SettingsError, match=r"t has the shape .* each of 2 clips"):
        model(**given | {"t": t})
    with pytest.raises(SettingsError, match=r"t has the shape .* each of 2 clips"):
        model.velocity(given["latents"], t, prepared(model, given))


def test_other_numbers_of_prompts_and_a_guidance_input_are_refused():
    model = randomised(TINY)
    given = inputs(TINY, batch=3)
    with pytest.raises(SettingsError, match="2 latents came with prompts for 3"):
        model.velocity(given["latents"][:2], 0.5, prepared(model, given))
    with pytest.raises(SettingsError, match="takes no guidance scale"):
        model.velocity(given["latents"], 0.5, prepared(model, given), 4.5)


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 3},
        {"head_dim": 4},
        {"head_dim": 5},
        {"cross_heads": 7},
        {"patch": 0},
        {"max_positions": 0},
        {"guidance_embed": True},
        {"position_interpolation": 1.0},
        {"time_scale": 1.0},
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change):
    with pytest.raises(SettingsError, match="SANA"):
        SanaVideoConfig(**{"depth": 1, "width": 60, "cross_heads": 2, "head_dim": 12} | change)
