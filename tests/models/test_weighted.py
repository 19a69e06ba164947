"""Weights of tokens against repeated, absent and reweighed ones, through every way that a prompt takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.compiled import StepGraph
from sanakit.models.controlnet import Control, ControlledSana, ControlNet
from sanakit.models.layers import CrossAttention, TextKeysValues
from sanakit.models.perturbed import perturbed_velocity
from sanakit.models.sana import Sana, SanaConfig, TextContext
from sanakit.models.weighted import weighted

CONFIG = SanaConfig(depth=3, width=64, cross_heads=4, text_width=24, latent_channels=8, sample_size=4)
EXACT = 1e-13  # of the largest number compared, in float64: the same sums in another order
TOLERANCE = 2e-5  # the same in float32
EFFECT = 1e-3  # a weight changes at least this much of it


def randomised(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return module.eval()


@pytest.fixture(params=[False, True], ids=["", "qk-norm"])
def model(request: pytest.FixtureRequest) -> Sana:
    torch.manual_seed(0)
    model = Sana(replace(CONFIG, qk_norm=request.param))
    randomised(model)
    return model


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def velocity(model: Sana, text: Tensor, weights: list[float] | None, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 8, 4, 6, generator=generator).to(model.dtype)
    given = None if weights is None else torch.tensor(weights, dtype=model.dtype)
    return model.velocity(latents, 0.7, weighted(model.prepare([text]), given))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_weight_is_as_many_copies_of_the_token_as_it_says_in_float64(qk_norm: bool) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(32, 4, qk_norm).double()
    randomised(attention)
    x, text = torch.randn(2, 6, 32, dtype=torch.float64), torch.randn(1, 5, 32, dtype=torch.float64)
    weights = torch.tensor([1, 2, 0, 3, 1])
    repeated = text.repeat_interleave(weights, 1)
    ours, theirs = x.clone(), x.clone()
    with torch.no_grad():
        context = TextContext([[attention.prepare(text, 2)]])
        attention.add_(ours, weighted(context, weights.double()).layers[0])
        attention.add_(theirs, [attention.prepare(repeated, 2)])
        plain = x.clone()
        attention.add_(plain, context.layers[0])
    assert apart(ours - x, theirs - x) < EXACT
    assert apart(ours - x, plain - x) > 0.01


def test_a_weight_multiplies_the_tokens_term_of_the_softmax(model: Sana) -> None:
    """By the definition, term by term, for weights that no copies can stand for."""
    attention = model.double().blocks[0].cross_attn
    x, text = torch.randn(1, 6, 64, dtype=torch.float64), torch.randn(1, 5, 24, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.3, 1.7, 0.0, 9.5], dtype=torch.float64)
    with torch.no_grad():
        caption = model.caption(text)
        key, value = attention.keys_values(caption)
        query = attention.q_norm(attention.q_linear(x)).unflatten(-1, (4, -1)).transpose(1, 2)
        terms = (query @ key.transpose(-1, -2) / 16**0.5).exp() * weights
        mixed = (terms / terms.sum(-1, keepdim=True)) @ value
        expected = attention.proj(mixed.transpose(1, 2).flatten(2))
        ours = x.clone()
        attention.add_(ours, weighted(model.prepare([text[0]]), weights).layers[0])
    assert apart(ours - x, expected) < EXACT


def test_weights_of_one_change_no_bit_and_none_change_nothing(model: Sana) -> None:
    context = model.prepare([torch.randn(5, 24)])
    assert weighted(context, None) is context
    assert weighted(context, torch.ones(5)) is context
    assert context.layers[0][0].bias is None  # the fused kernel is called


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_of_zero_leaves_the_token_out_in_every_dtype(model: Sana, dtype: torch.dtype) -> None:
    model, text = model.to(dtype), torch.randn(5, 24).to(dtype)
    rest = text[[0, 1, 3, 4]]
    bound = {torch.float32: TOLERANCE, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    assert apart(velocity(model, text, [1, 1, 0, 1, 1]).float(), velocity(model, rest, None).float()) < bound
    tiny = velocity(model, text, [1, 1, 1e-30, 1, 1])
    assert bool(torch.isfinite(tiny).all())


def test_all_but_one_token_absent_is_a_prompt_of_one_token(model: Sana) -> None:
    text = torch.randn(4, 24)
    assert apart(velocity(model, text, [0.5, 0, 0, 0]), velocity(model, text[:1], None)) < TOLERANCE
    one = model.prepare([text[:1]])
    again = weighted(one, torch.tensor([3.0]))  # one term of a softmax is 1, whatever its weight
    assert again.layers[0][0].constant is one.layers[0][0].constant


def test_prompts_with_and_without_weights_go_together_as_they_go_alone(model: Sana) -> None:
    texts, weights = [torch.randn(n, 24) for n in (5, 1, 3)], [torch.tensor([1, 2, 0.5, 1, 0]), None, None]
    latents = torch.randn(3, 8, 4, 6)
    each = [weighted(model.prepare([text]), own) for text, own in zip(texts, weights, strict=True)]
    together = model.velocity(latents, 0.4, TextContext.join(each))
    for i in range(3):
        alone = model.velocity(latents[i : i + 1], 0.4, each[i])
        assert apart(together[i : i + 1], alone) < TOLERANCE
    plain = model.velocity(latents[:1], 0.4, model.prepare(texts[:1]))
    assert apart(together[:1], plain) > EFFECT


def test_the_perturbed_branch_has_the_weights(model: Sana) -> None:
    text, latents = torch.randn(5, 24), torch.randn(1, 8, 4, 6)
    copies = weighted(model.prepare([text]), torch.tensor([1, 2.0, 1, 1, 0]))
    repeated = model.prepare([text[[0, 1, 1, 2, 3]]])
    null = model.prepare([torch.randn(1, 24)])
    found = [
        perturbed_velocity(model, (1,), latents, 0.6, TextContext.join([null, own]), own)
        for own in (copies, repeated)
    ]
    assert apart(*found) < TOLERANCE


@pytest.mark.parametrize("order", ["native", "diffusers"])
def test_the_copies_of_a_controlnet_have_the_weights(order) -> None:
    torch.manual_seed(0)
    model, text = Sana(CONFIG), torch.randn(4, 24)
    net = ControlNet.of(model, copies=2, order=order)
    randomised(model), randomised(net)
    steered = ControlledSana(model, [Control(net=net, latents=torch.randn(1, 8, 4, 6))])
    latents = torch.randn(1, 8, 4, 6)
    ours = steered.velocity(latents, 0.6, weighted(steered.prepare([text]), torch.tensor([1, 3.0, 0, 1])))
    theirs = steered.velocity(latents, 0.6, steered.prepare([text[[0, 1, 1, 1, 3]]]))
    assert apart(ours, theirs) < TOLERANCE


def test_a_replayed_step_follows_the_weights(model: Sana) -> None:
    """A captured graph reads copies of keys, values and weights: new ones are written there."""

    def capture(run, device):
        result = run()
        return (lambda: result.copy_(run())), result

    step, latents = StepGraph(model.velocity, model, capture), torch.randn(1, 8, 4, 6)
    context = model.prepare([torch.randn(4, 24)])
    for weights in ([1, 2.0, 1, 1], [1, 2.0, 1, 1], [1, 1, 3.0, 1], [1, 0.1, 1, 1], [1, 0, 2.0, 1], None):
        own = weighted(context, None if weights is None else torch.tensor(weights))
        assert apart(step(latents, 0.6, own), model.velocity(latents, 0.6, own)) == 0


@pytest.mark.thorough
def test_compiled_blocks_follow_the_weights(model: Sana) -> None:
    latents, context = torch.randn(1, 8, 4, 6), model.prepare([torch.randn(4, 24)])
    own = [weighted(context, torch.tensor(weights)) for weights in ([1, 2.0, 1, 1], [1, 0, 3.0, 1])]
    plain = [model.velocity(latents, 0.6, one) for one in own]
    torch._dynamo.reset()
    for block in model.blocks:
        block.sample = torch.compile(block.sample, backend="eager", fullgraph=True)
    for one, exact in zip(own, plain, strict=True):
        assert apart(model.velocity(latents, 0.6, one), exact) < TOLERANCE


def test_a_context_without_values_is_refused() -> None:
    context = TextContext([[TextKeysValues(1, key=torch.randn(1, 3, 24))]])
    with pytest.raises(SettingsError, match="prompt weights"):
        weighted(context, torch.tensor([1, 2.0, 1]))
