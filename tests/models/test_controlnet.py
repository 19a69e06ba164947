"""ControlNet: diffusers' order against diffusers, the native order against its equation, and its promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import SanaControlNetModel, SanaTransformer2DModel
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.controlnet import Control, ControlledSana, ControlNet
from sanakit.models.layers import grid_positions, sinusoid
from sanakit.models.sana import Sana, SanaBlock, SanaConfig, TextContext
from sanakit.weights.layouts.controlnet import diffusers_names as names_of_net
from sanakit.weights.layouts.diffusers import diffusers_names, write_sana_config

TINY = SanaConfig(depth=4, width=8, cross_heads=2, head_dim=4, text_width=8, latent_channels=4, sample_size=8)
NORMED = replace(TINY, qk_norm=True)
SPRINT = replace(TINY, qk_norm=True, guidance_embed=True, time_scale=1.0)
VARIANTS = {
    "sana": TINY,
    "sana-1.5": NORMED,
    "sprint": SPRINT,
    "2k": replace(TINY, position_interpolation=1.0),
    "4k": replace(TINY, position_interpolation=2.0),
}
OF_DIFFUSERS = ("sana", "2k", "4k")
COPIES = 2
TOLERANCE = 2e-5  # of the largest number compared: float32 sums in another order


def randomised(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return module.eval()


def tiny(config: SanaConfig = TINY, order="native", copies: int = COPIES) -> tuple[Sana, ControlNet]:
    base, net = Sana(config), ControlNet(replace(config, depth=copies), order)
    randomised(base)
    randomised(net)
    return base, net


def inputs(config: SanaConfig, batch: int = 2, grid: tuple[int, int] = (4, 6)) -> dict[str, Tensor | None]:
    lengths = torch.tensor([5, 3, 1, 4])[:batch]
    return {
        "latents": torch.randn(batch, config.latent_channels, *grid),
        "t": torch.linspace(0.9, 0.3, batch),
        "text": torch.randn(batch, 5, config.text_width),
        "mask": torch.arange(5) < lengths[:, None],
        "guidance": torch.linspace(4.5, 4.0, batch) if config.guidance_embed else None,
    }


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def prepared(model: ControlledSana | Sana, given: dict) -> TextContext:
    return model.prepare([text[real] for text, real in zip(given["text"], given["mask"], strict=True)])


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
