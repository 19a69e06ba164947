"""What a ControlNet promises: scale, times, memory, training, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sanakit.errors import SettingsError
from sanakit.models.controlnet import Control, ControlledSana, ControlNet
from sanakit.models.sana import Sana
from tests.models.controlnets import (
    COPIES,
    NORMED,
    TINY,
    TOLERANCE,
    VARIANTS,
    apart,
    inputs,
    prepared,
    randomised,
    tiny,
)

# Scale and range of times


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", ["native", "diffusers"])
@torch.no_grad()
def test_scale_zero_is_the_model_itself_bit_for_bit(variant, order):
    base, net = tiny(VARIANTS[variant], order)
    given = inputs(base.config)
    model = ControlledSana(base, [Control(net=net, latents=torch.randn(1, 4, 4, 6), scale=0)])
    assert torch.equal(model(**given), base(**given))
    ours = model.velocity(given["latents"], given["t"], prepared(model, given), given["guidance"])
    plain = base.velocity(given["latents"], given["t"], prepared(base, given), given["guidance"])
    assert torch.equal(ours, plain)
    assert torch.equal(
        ours, model.velocity(given["latents"], given["t"], prepared(model, given), given["guidance"])
    )


@pytest.mark.parametrize("order", ["native", "diffusers"])
@torch.no_grad()
def test_a_control_acts_within_its_times_alone(order):
    base, net = tiny(order=order)
    given, k = inputs(TINY, batch=3), torch.randn(1, 4, 4, 6)
    times = torch.tensor([0.9, 0.6, 0.3])
    ranged = ControlledSana(base, [Control(net=net, latents=k, scale=0.5, times=(0.7, 0.6))])
    always = ControlledSana(base, [Control(net=net, latents=k, scale=0.5)])
    context = prepared(always, given)
    mixed = ranged.velocity(given["latents"], times, context)
    acting = always.velocity(given["latents"], times, context)
    plain = base.velocity(given["latents"], times, prepared(base, given))
    assert apart(mixed[1], acting[1]) < TOLERANCE
    assert apart(mixed[[0, 2]], plain[[0, 2]]) < TOLERANCE
    assert apart(acting, plain) > 0.05
    for t, expected in ((0.9, plain), (0.6, acting), (0.3, plain)):
        one = ranged.velocity(given["latents"], t, context)
        like = (base if expected is plain else always).velocity(
            given["latents"], t, prepared(base, given) if expected is plain else context
        )
        assert torch.equal(one, like)


@pytest.mark.parametrize("order", ["native", "diffusers"])
@torch.no_grad()
def test_an_eps_for_the_prompts_norms_holds_in_the_copies_too(order):
    """As the norms' own eps would give it; a large one, so that it shows."""
    base, net = tiny(NORMED, order)
    given, k = inputs(NORMED), torch.randn(1, 4, 4, 6)
    texts = [text[real] for text, real in zip(given["text"], given["mask"], strict=True)]
    model = ControlledSana(base, [Control(net=net, latents=k)])
    asked = model.velocity(given["latents"], 0.5, model.prepare(texts, eps=1.0))
    usual = model.velocity(given["latents"], 0.5, model.prepare(texts))
    copies = [block.copied_block for block in net.controlnet]
    for block in (*base.blocks, *copies):
        block.cross_attn.q_norm.eps = block.cross_attn.k_norm.eps = 1.0
    assert apart(asked, model.velocity(given["latents"], 0.5, model.prepare(texts))) < TOLERANCE
    assert apart(asked, usual) > 1e-3


@torch.no_grad()
def test_each_copied_block_is_released_after_it_ran():
    base, net = tiny()
    given = inputs(TINY)
    model = ControlledSana(base, [Control(net=net, latents=torch.randn(1, 4, 4, 6))])
    ran: list[nn.Module] = []
    model.velocity(given["latents"], 0.5, prepared(model, given), after_block=ran.append)
    blocks, copies = list(base.blocks), list(net.controlnet)
    assert ran == [copies[0], blocks[0], copies[1], blocks[1], *blocks[2:]]


# Training


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", ["native", "diffusers"])
def test_one_to_train_begins_as_the_model_and_copies_its_blocks(variant, order):
    base = Sana(VARIANTS[variant])
    randomised(base)
    net = ControlNet.of(base, COPIES, order)
    given = inputs(base.config)
    model = ControlledSana(base, [Control(net=net, latents=torch.randn(2, 4, 4, 6))])
    assert torch.equal(model(**given), base(**given))
    state = base.state_dict()
    for number, block in enumerate(net.controlnet):
        for name, tensor in block.copied_block.state_dict().items():
            assert torch.equal(tensor, state[f"blocks.{number}.{name}"])
            assert tensor.data_ptr() != state[f"blocks.{number}.{name}"].data_ptr()


@pytest.mark.parametrize("variant", ["sana", "sprint", "2k"])
def test_copies_and_projections_learn_while_the_model_is_frozen(variant):
    base = Sana(VARIANTS[variant])
    randomised(base)
    base.requires_grad_(False)
    net = ControlNet.of(base, COPIES)
    model = ControlledSana(base, [Control(net=net, latents=torch.randn(2, 4, 4, 6))])
    given = inputs(base.config)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):  # in the first step projections alone have gradients: they hide the copies
        optimizer.zero_grad()
        model(**given).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in base.parameters())
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


# What is refused


@pytest.mark.parametrize("copies", [0, 4, 5])
def test_copies_must_be_fewer_than_blocks(copies):
    with pytest.raises(SettingsError, match="can be steered by 1 to 3 copies"):
        ControlNet.of(Sana(TINY), copies)


@pytest.mark.parametrize(
    ("changed", "naming"),
    [
        ({"width": 16}, "width 8, this one has 16"),
        ({"text_width": 12}, "text_width 8"),
        ({"latent_channels": 8}, "latent_channels 4"),
        ({"guidance_embed": True}, "guidance_embed False"),
        ({"depth": 2}, "2 copies, too many for a model of 2 blocks"),
    ],
)
def test_a_model_of_another_size_is_refused(changed, naming):
    _, net = tiny()
    with pytest.raises(SettingsError, match=naming):
        ControlledSana(Sana(replace(TINY, **changed)), [Control(net=net, latents=torch.zeros(1, 4, 4, 6))])
