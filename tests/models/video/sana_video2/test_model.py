"""SANA-Video 2.0 whole: the equations in float64, the ways of calling it, which weights are reached."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video.sana_video2 import SANA_VIDEO2_5B, SANA_VIDEO2_14B, SanaVideo2
from tests.models.video.sana_video2.written_out import (
    GRID,
    TINY,
    VARIANTS,
    apart,
    inputs,
    randomised,
    written_out,
)


@pytest.fixture(scope="module")
def model() -> SanaVideo2:
    torch.manual_seed(0)
    return randomised(TINY)


def prepared(model: SanaVideo2, some: dict[str, torch.Tensor]):
    return model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_velocities_are_those_of_the_equations(name):
    torch.manual_seed(1)
    model, some = randomised(VARIANTS[name]), inputs(VARIANTS[name])
    for t in (some["t"], torch.tensor([0.81, 0.3])):
        wanted = written_out(model, **{**some, "t": t})
        assert apart(model(**{**some, "t": t}), wanted) < 2e-5
        model.double()
        wide = {name: part.double() if part.is_floating_point() else part for name, part in some.items()}
        assert apart(model(**{**wide, "t": t}), wanted) < 1e-10
        model.float()


@torch.no_grad()
def test_sampling_gives_what_training_sees(model):
    some = inputs(TINY)
    context = prepared(model, some)
    assert apart(model.velocity(some["latents"], some["t"], context), model(**some)) < 2e-5


@torch.no_grad()
def test_a_prompt_of_one_token_needs_no_attention(model):
    some = inputs(TINY, tokens=2)
    some["mask"] = torch.tensor([[True, False], [True, False]])
    context = prepared(model, some)
    assert context.layers[0][0].constant is not None
    assert apart(model.velocity(some["latents"], some["t"], context), model(**some)) < 2e-5


@torch.no_grad()
def test_one_time_for_all_one_for_each_and_one_for_each_frame_agree(model):
    some = inputs(TINY)
    context = prepared(model, some)
    times = (0.7, torch.full((2,), 0.7), torch.full((2, GRID[0]), 0.7), torch.full((1, GRID[0]), 0.7))
    outs = [model.velocity(some["latents"], t, context) for t in times]
    assert all(apart(out, outs[0]) < 1e-5 for out in outs)
    assert apart(model(**{**some, "t": torch.full((2,), 0.7)}), outs[0]) < 2e-5


@torch.no_grad()
def test_guidance_shares_latents(model):
    some = inputs(TINY)
    context, latents, t = prepared(model, some), some["latents"][:1], some["t"][:1]
    shared = model.velocity(latents, t, context)
    assert apart(shared, model.velocity(latents.repeat(2, 1, 1, 1, 1), t.repeat(2, 1), context)) < 1e-5
    four = model.prepare([some["text"][n % 2][some["mask"][n % 2]] for n in range(4)])
    guided = model.velocity(some["latents"], some["t"], four)
    assert apart(guided[:2], model.velocity(some["latents"], some["t"], context)) < 1e-5
    assert apart(guided[2:], guided[:2]) < 1e-5
    assert apart(shared[1:], shared[:1]) > 1e-2


@torch.no_grad()
def test_times_are_cut_to_whole_thousandths(model):
    some = inputs(TINY, batch=1)
    cut, whole = (model(**{**some, "t": torch.full((1,), t)}) for t in (0.5007, 0.5))
    assert torch.equal(cut, whole)


def test_gradients_reach_every_weight(model):
    model(**inputs(TINY)).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in model.parameters())
    model.zero_grad()


@torch.no_grad()
def test_first_weights_average_the_sources():
    torch.manual_seed(1)
    model, some = SanaVideo2(TINY), inputs(TINY)
    model.init_weights()
    assert not any(query.any() for query in model.attn_res.parameters())
    out = model(**some)
    assert torch.isfinite(out).all()
    assert apart(out, written_out(model, **some)) < 2e-5


@torch.no_grad()
def test_half_precision_stays_close(model):
    some = inputs(TINY)
    half = randomised(TINY)
    half.load_state_dict(model.state_dict())
    half.bfloat16()
    out = half.velocity(some["latents"], some["t"], prepared(half, some))
    assert out.dtype == torch.bfloat16
    assert apart(out.float(), model(**some)) < 0.1


def test_released_sizes_have_their_published_numbers_of_parameters():
    with torch.device("meta"):
        sizes = [SanaVideo2(config) for config in (SANA_VIDEO2_5B, SANA_VIDEO2_14B)]
    counted = [sum(p.numel() for p in model.parameters()) for model in sizes]
    assert counted == [4_466_980_960, 14_246_716_224]
    assert [len(model.state_dict()) for model in sizes] == [795, 989]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"t": torch.zeros(2, 3)}, "t has the shape"),
        ({"latents": torch.zeros(2, 4, *GRID)}, "are not a clip's"),
        ({"latents": torch.zeros(2, 8, 33, 1, 1)}, "33 frames of 1x1 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(model, change, said):
    with pytest.raises((SettingsError, SizeError), match=said):
        model(**inputs(TINY) | change)


@torch.no_grad()
def test_sampling_refuses_what_does_not_fit(model):
    some = inputs(TINY)
    context = prepared(model, some)
    with pytest.raises(SettingsError, match="no guidance scale"):
        model.velocity(some["latents"], 0.5, context, 4.5)
    with pytest.raises(SettingsError, match="3 latents came with prompts for 2"):
        model.velocity(torch.randn(3, 8, *GRID), 0.5, context)


@torch.no_grad()
def test_blocks_are_told_of_when_they_have_run(model):
    some, seen = inputs(TINY), []
    model.velocity(some["latents"], 0.5, prepared(model, some), after_block=seen.append)
    assert seen == list(model.blocks)
