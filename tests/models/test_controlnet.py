"""ControlNet: diffusers' order against diffusers, the native order against its equation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import SanaControlNetModel, SanaTransformer2DModel
from torch import Tensor, nn

from sanakit.models.controlnet import Control, ControlledSana, ControlNet
from sanakit.models.layers import grid_positions, sinusoid
from sanakit.models.sana import Sana, SanaBlock, TextContext
from sanakit.weights.layouts.controlnet import diffusers_names as names_of_net
from sanakit.weights.layouts.diffusers import diffusers_names, write_sana_config
from tests.models.controlnets import (
    TINY,
    TOLERANCE,
    VARIANTS,
    apart,
    inputs,
    prepared,
    randomised,
    tiny,
)

OF_DIFFUSERS = ("sana", "2k", "4k")


def renamed(module: nn.Module, names) -> dict[str, Tensor]:
    state = {}
    for name, tensor in module.state_dict().items():
        theirs = names(name)
        state |= dict(zip(theirs, tensor.chunk(len(theirs)), strict=True))
    return state


def their_velocity(base: Sana, net: ControlNet, k: Tensor, scale: float, given: dict) -> Tensor:
    config = write_sana_config(base.config)
    transformer = SanaTransformer2DModel.from_config(config)
    arguments = {
        key: value for key, value in config.items() if key not in ("_class_name", "_diffusers_version")
    }
    for name in ("guidance_embeds", "guidance_embeds_scale", "qk_norm", "timestep_scale"):
        del arguments[name]
    controlnet = SanaControlNetModel(**{**arguments, "num_layers": net.config.depth})
    for theirs, state in (
        (transformer, renamed(base, lambda name: diffusers_names(name, guidance_embed=False))),
        (controlnet, renamed(net, names_of_net)),
    ):
        tables = {key: value for key, value in theirs.state_dict().items() if key.endswith("pos_embed")}
        theirs.load_state_dict({**state, **tables})
        theirs.eval()
    shared = {
        "encoder_hidden_states": given["text"],
        "encoder_attention_mask": given["mask"].long(),
        "timestep": 1000 * given["t"],
        "return_dict": False,
    }
    skips = controlnet(given["latents"], controlnet_cond=k, conditioning_scale=scale, **shared)[0]
    return transformer(given["latents"], controlnet_block_samples=tuple(skips), **shared)[0]


@pytest.mark.parametrize("variant", OF_DIFFUSERS)
@pytest.mark.parametrize("scale", [1.0, 0.4, -0.5])
@torch.no_grad()
def test_diffusers_order_equals_diffusers(variant, scale):
    base, net = tiny(VARIANTS[variant], "diffusers")
    given, k = inputs(base.config), torch.randn(2, 4, 4, 6)
    expected = their_velocity(base, net, k, scale, given)
    assert apart(base(**given), expected) > 0.05  # the ControlNet changes it
    model = ControlledSana(base, [Control(net=net, latents=k, scale=scale)])
    assert apart(model(**given), expected) < TOLERANCE
    sampled = model.velocity(given["latents"], given["t"], prepared(model, given))
    assert apart(sampled, expected) < TOLERANCE


# The native order, written out


def native_velocity(base: Sana, nets: list[tuple[ControlNet, Tensor, float]], given: dict) -> Tensor:
    """h = B0(E(x)), c = C0(h + P_in E(k)); then h = Bi(h + P(i-1) c), c = Ci(c), in float64.

    Every block is written out, too, from its weights: nothing but `grid_positions` and `sinusoid` is shared.
    """
    config, latents = base.config, given["latents"].double()
    height, width = latents.shape[-2:]

    def linear(layer, x):
        weight = layer.weight.double().flatten(1)
        return x @ weight.T + (0 if layer.bias is None else layer.bias.double())

    def rms(norm, x):
        return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()

    def norms(part, q, k):
        return (rms(part.q_norm, q), rms(part.k_norm, k)) if config.qk_norm else (q, k)

    def embedded(embedder, value):
        x = linear(embedder.mlp[0], sinusoid(value.float(), 256).double())
        return linear(embedder.mlp[2], F.silu(x))

    def tokens(x):
        return linear(base.x_embedder.proj, x.flatten(2).transpose(1, 2))

    time = embedded(base.t_embedder, given["t"] * config.time_scale)
    if config.guidance_embed:
        time = time + embedded(base.cfg_embedder, given["guidance"] * config.guidance_scale_factor)
    modulation = linear(base.t_block[1], F.silu(time))
    caption = linear(base.y_embedder.y_proj.fc1, given["text"].double())
    caption = linear(base.y_embedder.y_proj.fc2, F.gelu(caption, approximate="tanh"))
    caption = rms(base.attention_y_norm, caption)
    real = given["mask"][:, None, None, :]

    def layer_norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def heads(x, count):
        return x.unflatten(-1, (count, -1)).transpose(1, 2)

    def block(part: SanaBlock, x):
        table = part.scale_shift_table.double() + modulation.unflatten(-1, (6, -1))
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = table[:, :, None].unbind(1)
        q, k, v = linear(part.attn.qkv, layer_norm(x) * (1 + scale) + shift).chunk(3, -1)
        q, k = (F.relu(one) for one in norms(part.attn, q, k))
        q, k, v = (heads(one, config.width // config.head_dim) for one in (q, k, v))
        sums = q @ k.transpose(-1, -2)
        out = (sums @ v) / (sums.sum(-1, keepdim=True) + 1e-15)
        x = x + gate * linear(part.attn.proj, out.transpose(1, 2).flatten(2))
        q = linear(part.cross_attn.q_linear, x)
        k, v = linear(part.cross_attn.kv_linear, caption).chunk(2, -1)
        q, k = norms(part.cross_attn, q, k)
        q, k, v = (heads(one, config.cross_heads) for one in (q, k, v))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~real, -torch.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(part.cross_attn.proj, out)
        wide = F.silu(linear(part.mlp.inverted_conv.conv, layer_norm(x) * (1 + scale_mlp) + shift_mlp))
        depth = part.mlp.depth_conv.conv
        wide = wide.transpose(1, 2).unflatten(-1, (height, width))
        wide = F.conv2d(wide, depth.weight.double(), depth.bias.double(), padding=1, groups=wide.shape[1])
        wide = wide.flatten(2).transpose(1, 2)
        value, gated = wide.chunk(2, -1)
        return x + gate_mlp * linear(part.mlp.point_conv.conv, value * F.silu(gated))

    h = tokens(latents)
    if config.position_interpolation is not None:
        h = h + grid_positions(
            height,
            width,
            config.width,
            base_size=config.sample_size,
            interpolation=config.position_interpolation,
        )
    h = block(base.blocks[0], h)
    ways = []
    for net, k, scale in nets:
        copies = net.controlnet
        c = block(copies[0].copied_block, h + linear(copies[0].before_proj, tokens(k.double())))
        ways.append((net, c, scale))
    for number in range(1, config.depth):
        for place, (net, c, scale) in enumerate(ways):
            if number <= net.config.depth:
                h = h + scale * linear(net.controlnet[number - 1].after_proj, c)
            if number < net.config.depth:
                # the branches see each other only through the model: copies beyond the first see c alone
                ways[place] = (net, block(net.controlnet[number].copied_block, c), scale)
        h = block(base.blocks[number], h)
    shift, scale = (base.final_layer.scale_shift_table.double() + time[:, None]).unsqueeze(2).unbind(1)
    out = linear(base.final_layer.linear, layer_norm(h) * (1 + scale) + shift)
    return out.transpose(1, 2).unflatten(-1, (height, width))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("copies", [1, 2, 3])
@torch.no_grad()
def test_the_native_order_equals_its_equation_in_float64(variant, copies):
    base, net = tiny(VARIANTS[variant], copies=copies)
    given, k = inputs(base.config), torch.randn(2, 4, 4, 6)
    expected = native_velocity(base, [(net, k, 0.7)], given)
    assert apart(base(**given).double(), expected) > 0.05
    assert apart(base(**given).double(), native_velocity(base, [], given)) < TOLERANCE
    model = ControlledSana(base, [Control(net=net, latents=k, scale=0.7)])
    assert apart(model(**given).double(), expected) < TOLERANCE
    sampled = model.velocity(given["latents"], given["t"], prepared(model, given), given["guidance"])
    assert apart(sampled.double(), expected) < TOLERANCE


@torch.no_grad()
def test_the_two_orders_differ_for_the_same_weights():
    base, native = tiny()
    other = ControlNet(native.config, "diffusers")
    other.load_state_dict(native.state_dict(), strict=False)
    other.own.load_state_dict({name: base.state_dict()[name] for name in other.own.state_dict()})
    given, k = inputs(TINY), torch.randn(1, 4, 4, 6)
    ways = [ControlledSana(base, [Control(net=net, latents=k)])(**given) for net in (native, other)]
    assert apart(*ways) > 0.05


# Several controls


@pytest.mark.parametrize("variant", ["sana", "sprint"])
@torch.no_grad()
def test_what_several_controls_add_is_summed_each_with_its_own_scale(variant):
    base, first = tiny(VARIANTS[variant])
    second = ControlNet(replace(base.config, depth=3))
    randomised(second)
    given = inputs(base.config)
    images = [torch.randn(1, 4, 4, 6) for _ in range(3)]
    shown = [(first, images[0], 0.5), (second, images[1], 1.5), (first, images[2], -0.25)]
    model = ControlledSana(base, [Control(net=n, latents=k, scale=s) for n, k, s in shown])
    # the first copy of each sees what the model's first block gave, before any of them added to it
    expected = native_velocity(base, [(n, k.expand(2, -1, -1, -1), s) for n, k, s in shown], given)
    assert apart(model(**given).double(), expected) < TOLERANCE
    sampled = model.velocity(given["latents"], given["t"], prepared(model, given), given["guidance"])
    assert apart(sampled.double(), expected) < TOLERANCE
    assert len(model.nets) == 2  # one that two images share is there once


@pytest.mark.parametrize("order", ["native", "diffusers"])
@torch.no_grad()
def test_one_image_for_all_samples_is_as_one_each_with_two_prompts_each_too(order):
    base, net = tiny(order=order)
    given = inputs(TINY, batch=2)
    k = torch.randn(1, 4, 4, 6)
    texts = [torch.randn(length, 8) for length in (1, 1, 4, 2)]
    results = []
    for shown in (k, k.expand(2, -1, -1, -1)):
        model = ControlledSana(base, [Control(net=net, latents=shown, scale=0.8)])
        context = TextContext.join([model.prepare([text]) for text in texts])
        both = model.velocity(given["latents"], given["t"], context)
        alone = [
            model.velocity(given["latents"], given["t"], TextContext.join([model.prepare([t]) for t in pair]))
            for pair in (texts[:2], texts[2:])
        ]
        assert apart(both, torch.cat(alone)) < TOLERANCE
        results.append(both)
    assert apart(*results) < TOLERANCE
