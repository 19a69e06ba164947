"""The dialects' names; and NVIDIA's way from prompt to image, as one chain against its equations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.dialect import DIALECTS, check_dialect
from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DCAE
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
from sanakit.models.sana import SANA_600M, Sana
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.encoder import TextEncoder
from sanakit.text.native import NATIVE_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights.settings import ModelSettings

PROMPT, FLAG = "Two Green FOXES on a table", " --ar 3:4"
MAX_TOKENS, STEPS, SHIFT, GUIDANCE = 40, 4, 4.0, 4.5
GRID = (4, 6)
ROUNDING = 1e-4  # of the largest number


def test_a_dialect_is_one_of_two_names() -> None:
    assert DIALECTS == ("diffusers", "native")
    assert [check_dialect(name) for name in DIALECTS] == list(DIALECTS)


@pytest.mark.parametrize("wrong", ["Native", "", None, 3, ["native"]])
def test_another_name_is_refused_with_those_that_are_allowed(wrong) -> None:
    with pytest.raises(SettingsError, match=r'must be "diffusers" .* or "native"'):
        check_dialect(wrong)


# The equations, in float64. Shapes: N tokens of the image, L of the text, D width, h heads.


class Weights:
    """A module's parameters by name, in float64."""

    def __init__(self, module: nn.Module, beginning: str = "") -> None:
        self.module, self.beginning = module, beginning

    def __call__(self, name: str) -> Tensor:
        return self.module.get_parameter(self.beginning + name).detach().double()

    def under(self, name: str) -> Weights:
        return Weights(self.module, f"{self.beginning}{name}.")

    def linear(self, name: str, x: Tensor) -> Tensor:
        names = {own for own, _ in self.module.named_parameters()}
        y = x @ self(f"{name}.weight").flatten(1).T
        return y + self(f"{name}.bias") if f"{self.beginning}{name}.bias" in names else y


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def text_states(model: Gemma2, ids: list[int], length: int) -> Tensor:
    """Gemma 2 over a text that is padded to a length; padding is hidden from all tokens: length D."""
    config, every = model.config, Weights(model)
    tokens = torch.tensor(ids + [0] * (length - len(ids)))
    x = every("embed_tokens.weight")[tokens] * math.sqrt(config.width)
    place = torch.arange(length)
    hidden = (place[None] > place[:, None]) | (place[None] >= len(ids))
    angles = place[:, None] * config.rope_theta ** (
        -torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    )
    cos, sin = (turned.repeat(1, 2) for turned in (angles.cos(), angles.sin()))

    def heads(name: str, x: Tensor, count: int, weights: Weights) -> Tensor:
        return weights.linear(name, x).unflatten(-1, (count, -1)).transpose(0, 1)  # h L d

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    for number in range(config.depth):
        own = every.under(f"layers.{number}")
        y = rms(x, 1 + own("input_layernorm.weight"), config.norm_eps)
        query = turn(heads("self_attn.q_proj", y, config.heads, own))
        repeats = config.heads // config.kv_heads
        key = turn(heads("self_attn.k_proj", y, config.kv_heads, own)).repeat_interleave(repeats, 0)
        value = heads("self_attn.v_proj", y, config.kv_heads, own).repeat_interleave(repeats, 0)
        scores = query @ key.transpose(1, 2) / math.sqrt(config.query_scalar)
        scores = config.attention_softcap * torch.tanh(scores / config.attention_softcap)
        seen = scores.masked_fill(hidden, -math.inf).softmax(-1) @ value
        y = own.linear("self_attn.o_proj", seen.transpose(0, 1).flatten(1))
        x = x + rms(y, 1 + own("post_attention_layernorm.weight"), config.norm_eps)
        y = rms(x, 1 + own("pre_feedforward_layernorm.weight"), config.norm_eps)
        y = gelu(own.linear("mlp.gate_proj", y)) * own.linear("mlp.up_proj", y)
        y = own.linear("mlp.down_proj", y)
        x = x + rms(y, 1 + own("post_feedforward_layernorm.weight"), config.norm_eps)
    return rms(x, 1 + every("norm.weight"), config.norm_eps)


def velocity(model: Sana, latents: Tensor, t: float, text: Tensor) -> Tensor:
    """SANA's transformer at the whole model time below 1000 t: C H W -> C H W. text: L E, all of it read."""
    config, every = model.config, Weights(model)
    height, width = latents.shape[1:]
    x = every.linear("x_embedder.proj", latents.flatten(1).T)  # N D
    half = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    angles = math.floor(1000 * t) * half
    time = every.linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()]))
    time = every.linear("t_embedder.mlp.2", silu(time))
    steer = every.linear("t_block.1", silu(time)).unflatten(0, (6, -1))
    caption = every.linear("y_embedder.y_proj.fc2", gelu(every.linear("y_embedder.y_proj.fc1", text)))
    caption = rms(caption, every("attention_y_norm.weight"), 1e-5)

    def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift

    for number in range(config.depth):
        own = every.under(f"blocks.{number}")
        table = own("scale_shift_table") + steer
        query, key, value = own.linear("attn.qkv", normed(x, table[0], table[1])).chunk(3, dim=-1)
        query = rms(query, own("attn.q_norm.weight"), 1e-5).relu().unflatten(-1, (-1, config.head_dim))
        key = rms(key, own("attn.k_norm.weight"), 1e-5).relu().unflatten(-1, (-1, config.head_dim))
        weights = torch.einsum("nhd,mhd->hnm", query, key)
        seen = torch.einsum("hnm,mhd->nhd", weights, value.unflatten(-1, (-1, config.head_dim)))
        seen = seen / (weights.sum(-1).T[..., None] + 1e-8)
        x = x + table[2] * own.linear("attn.proj", seen.flatten(1))

        query = rms(own.linear("cross_attn.q_linear", x), own("cross_attn.q_norm.weight"), 1e-6)
        key, value = own.linear("cross_attn.kv_linear", caption).chunk(2, dim=-1)
        key = rms(key, own("cross_attn.k_norm.weight"), 1e-6)
        query, key, value = (y.unflatten(-1, (config.cross_heads, -1)) for y in (query, key, value))
        scores = torch.einsum("nhd,lhd->hnl", query, key) / math.sqrt(query.shape[-1])
        seen = torch.einsum("hnl,lhd->nhd", scores.softmax(-1), value)
        x = x + own.linear("cross_attn.proj", seen.flatten(1))

        y = silu(own.linear("mlp.inverted_conv.conv", normed(x, table[3], table[4])))
        rows = y.T.unflatten(1, (height, width))[None]
        around = own("mlp.depth_conv.conv.weight"), own("mlp.depth_conv.conv.bias")
        rows = F.conv2d(rows, *around, padding=1, groups=rows.shape[1])[0]
        first, gate = rows.flatten(1).T.chunk(2, dim=-1)
        x = x + table[5] * own.linear("mlp.point_conv.conv", first * silu(gate))

    shift, scale = every("final_layer.scale_shift_table") + time
    return every.linear("final_layer.linear", normed(x, shift, scale)).T.unflatten(1, (height, width))


def denoised(model: Sana, noise: Tensor, text: Tensor, null: Tensor) -> Tensor:
    """DPM-Solver++ (2M, midpoint) over the shifted flow times; the first and the last step are of order 1."""
    even = torch.linspace(0, 0.999, STEPS + 1, dtype=torch.float64).flip(0)
    times = (SHIFT * even / (1 + (SHIFT - 1) * even)).tolist()

    def snr(t: float) -> float:
        return math.log((1 - t) / t)

    x, before = noise, None
    for number, (t, s) in enumerate(pairwise(times)):
        u = velocity(model, x, t, null)
        clean = x - t * (u + GUIDANCE * (velocity(model, x, t, text) - u))
        if s == 0:
            return clean
        h = snr(s) - snr(t)
        slope = torch.zeros_like(x)
        if before is not None:
            slope = (clean - before) * h / (snr(t) - snr(times[number - 1]))
        x = s / t * x - (1 - s) * math.expm1(-h) * (clean + slope / 2)
        before = clean
    raise AssertionError("the last time is 0")


def drawn_at_random(module: nn.Module) -> nn.Module:
    """Draw every parameter, so that all matter and no layer's output grows with its width."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = name.endswith("norm.weight") and not isinstance(module, Gemma2)
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn_like(parameter) * spread + gain)
    return module.eval()


@pytest.mark.slow
def test_the_native_chain_at_full_width_is_its_equations_and_not_diffusers_chain() -> None:
    """Text, the null prompt under the prompt's mask, sampler and autoencoder; the latter by diffusers."""
    from diffusers import AutoencoderDC

    tokenizer = train_tokenizer(["Two Green FOXES on a table", NATIVE_INSTRUCTION] * 20, 600)
    gemma = drawn_at_random(Gemma2(replace(GEMMA2_2B, vocab_size=600, depth=2, sliding_layers=())))
    sana = drawn_at_random(Sana(replace(SANA_600M, depth=2, qk_norm=True)))
    config = replace(
        DC_AE_F32C32_SANA,
        encoder=tuple(replace(stage, depth=1) for stage in DC_AE_F32C32_SANA.encoder),
        decoder=tuple(replace(stage, depth=1) for stage in DC_AE_F32C32_SANA.decoder),
    )
    autoencoder = drawn_at_random(DCAE(config))
    settings = ModelSettings(
        name="wide", steps=STEPS, guidance=GUIDANCE, native_flow_shift=SHIFT, dialect="native"
    )
    encoder = TextEncoder(gemma, tokenizer, max_tokens=MAX_TOKENS)
    pipe = TextToImage(sana, autoencoder, encoder, settings)
    noise = torch.randn(1, config.latent_channels, *GRID)
    words = {"width": 32 * GRID[1], "height": 32 * GRID[0], "binned": False, "latents": noise}

    with pytest.warns(UserWarning, match="--ar 3:4"):
        ours = pipe(PROMPT + FLAG, **words, output="latent").images
    image = pipe(PROMPT, **words, output="pt").images
    usual = pipe(PROMPT, **words, output="latent", dialect="diffusers").images

    instruction = tokenizer.encode(NATIVE_INSTRUCTION).ids
    ids, length = tokenizer.encode(NATIVE_INSTRUCTION + PROMPT).ids, len(instruction) + MAX_TOKENS - 2
    states = text_states(gemma, ids, length)
    text = states[[0, *range(length - MAX_TOKENS + 1, len(ids))]]
    null = text_states(gemma, tokenizer.encode("").ids, MAX_TOKENS)[: len(text)]
    latents = denoised(sana, noise[0].double(), text, null)
    with torch.no_grad():
        theirs = AutoencoderDC.from_config(config.to_diffusers()).double()
        theirs.load_state_dict({name: value.double() for name, value in autoencoder.state_dict().items()})
        decoded = theirs.decode(latents[None] / config.scaling_factor).sample[0].clamp(-1, 1)

    def apart(one: Tensor, other: Tensor) -> float:
        return ((one - other).abs().max() / other.abs().max()).item()

    assert apart(ours[0], latents) < ROUNDING
    assert apart(image[0], decoded) < ROUNDING
    assert decoded.std() > 0.05
    assert apart(usual[0], latents) > 100 * ROUNDING
