"""SANA-Video 2.0 written out from its equations in float64, over all pairs of tokens; tiny sizes and inputs.

Nothing but the sinusoid of times is shared with the package: it reads tensors by their official names.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.models.layers import sinusoid
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.video.sana_video2 import SanaVideo2, SanaVideo2Config

TINY = SanaVideo2Config(
    depth=8,
    width=64,
    cross_heads=2,
    head_dim=16,
    softmax_head_dim=32,
    text_width=12,
    latent_channels=8,
    group=4,
    max_positions=32,
)
VARIANTS = {
    "as released": TINY,
    "groups that do not fill up": replace(TINY, depth=5, group=3, softmax_share=0.5),
    "wide heads": replace(TINY, depth=4, width=96, head_dim=48, softmax_head_dim=48, cross_heads=4, group=2),
}
GRID = (4, 3, 5)
Weights = dict[str, Tensor]


def randomised(config: SanaVideo2Config, std: float = 0.15) -> SanaVideo2:
    model = SanaVideo2(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=std)
    return model.eval()


def inputs(config: SanaVideo2Config, batch: int = 2, tokens: int = 6) -> dict[str, Tensor]:
    """A batch whose text is padded, with garbage behind the mask, and a time for each frame."""
    lengths = torch.tensor([tokens, *range(2, batch + 1)])[:batch]
    t = torch.linspace(0.9, 0.2, batch)[:, None].repeat(1, GRID[0])
    t[:, 0] = 0
    return {
        "latents": torch.randn(batch, config.latent_channels, *GRID),
        "t": t,
        "text": torch.randn(batch, tokens, config.text_width),
        "mask": torch.arange(tokens) < lengths[:, None],
    }


def written_out(model: SanaVideo2, latents: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """The velocity of a batch, sample by sample."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    t = t[:, None].expand(-1, latents.shape[2]) if t.ndim == 1 else t
    each = zip(latents.double(), t, text.double(), mask, strict=True)
    return torch.stack([_one(weights, model.config, x, at, y[real]) for x, at, y, real in each])


def _one(weights: Weights, config: SanaVideo2Config, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
    frames, height, columns = latents.shape[1:]
    tokens = height * columns
    places = [(f, y, x) for f in range(frames) for y in range(height) for x in range(columns)]
    angles = {
        d: torch.stack([angles_at(place, d) for place in places])
        for d in (config.head_dim, config.softmax_head_dim)
    }
    x = F.linear(
        latents.flatten(1).T, weights["x_embedder.proj.weight"].flatten(1), bias(weights, "x_embedder.proj")
    )
    times = torch.stack([torch.floor(1000 * at.double() + 1e-4) for at in t])
    time = sinusoid(times, 256).double()  # in float32 everywhere: it is tested beside its source
    time = linear(weights, "t_embedder.mlp.2", F.silu(linear(weights, "t_embedder.mlp.0", time)))
    modulation = linear(weights, "t_block.1", F.silu(time)).unflatten(1, (6, -1))  # T 6 D
    y = F.gelu(linear(weights, "y_embedder.y_proj.fc1", text), approximate="tanh")
    y = rms(linear(weights, "y_embedder.y_proj.fc2", y), 1e-5) * weights["attention_y_norm.weight"]

    sources, running = [x], None
    for number in range(config.depth):
        name = f"blocks.{number}"
        table = weights[f"{name}.scale_shift_table"] + modulation
        rows = [table[:, i].repeat_interleave(tokens, dim=0) for i in range(6)]
        hidden = mix(weights["attn_res.attn_proj.weight"][0], sources, running)
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + rows[1]) + rows[0]
        softmax = number in softmax_numbers(config)
        width = config.softmax_head_dim if softmax else config.head_dim
        delta = rows[2] * attend(weights, f"{name}.attn", normed, angles[width], width, softmax)
        delta = delta + cross(weights, f"{name}.cross_attn", hidden + delta, y, config.cross_heads)
        running = delta if running is None else running + delta
        hidden = mix(weights["attn_res.mlp_proj.weight"][0], sources, running)
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + rows[4]) + rows[3]
        gate = F.silu(linear(weights, f"{name}.mlp.gate_proj", normed))
        up = linear(weights, f"{name}.mlp.up_proj", normed)
        running = running + rows[5] * linear(weights, f"{name}.mlp.down_proj", gate * up)
        if (number + 1) % config.group == 0 or number + 1 == config.depth:
            sources, running = [*sources, running], None
    x = mix(weights["attn_res.final_proj.weight"][0], sources, None)
    shift, scale = (
        (weights["final_layer.scale_shift_table"] + time[:, None]).repeat_interleave(tokens, 0).unbind(1)
    )
    x = linear(weights, "final_layer.linear", F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
    return x.T.reshape(-1, frames, height, columns)


def softmax_numbers(config: SanaVideo2Config | SanaStreamingConfig) -> list[int]:
    """As published: int((i + 1) * depth / count) - 1."""
    count = max(1, math.floor(config.depth * config.softmax_share))
    return [math.floor((i + 1) * config.depth / count) - 1 for i in range(count)]


def mix(query: Tensor, sources: list[Tensor], running: Tensor | None) -> Tensor:
    every = torch.stack(sources if running is None else [*sources, running])  # n N D
    logits = (rms(every, 1e-6) * query).sum(-1)
    return (logits.softmax(0)[..., None] * every).sum(0)


def attend(weights: Weights, name: str, x: Tensor, angles: Tensor, width: int, softmax: bool) -> Tensor:
    query, key, value = (x @ weights[f"{name}.qkv.weight"].T).chunk(3, dim=-1)
    query = rms(query, 1e-5) * weights[f"{name}.q_norm.weight"]
    key = rms(key, 1e-5) * weights[f"{name}.k_norm.weight"]
    query, key, value = (
        part.unflatten(1, (-1, width)).transpose(0, 1) for part in (query, key, value)
    )  # h N d
    scores = turned(query, angles) @ turned(key, angles).transpose(1, 2)  # h N N
    if softmax:
        out = (scores / math.sqrt(width)).softmax(-1) @ value
    else:
        beta = linear(weights, f"{name}.beta_proj", x).sigmoid().T[:, None]  # h 1 N
        totals = (query.relu() @ key.relu().transpose(1, 2)).sum(-1, keepdim=True)
        out = rms((scores * beta) @ value / (totals + 1e-8), 1e-5) * weights[f"{name}.o_norm.weight"]
    gate = linear(weights, f"{name}.output_gate", x).sigmoid()
    return linear(weights, f"{name}.proj", out.transpose(0, 1).flatten(1) * gate)


def cross(weights: Weights, name: str, x: Tensor, text: Tensor, heads: int) -> Tensor:
    key, value = linear(weights, f"{name}.kv_linear", text).chunk(2, dim=-1)
    query = rms(linear(weights, f"{name}.q_linear", x), 1e-6) * weights[f"{name}.q_norm.weight"]
    key = rms(key, 1e-6) * weights[f"{name}.k_norm.weight"]
    query, key, value = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in (query, key, value))
    out = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1) @ value
    return linear(weights, f"{name}.proj", out.transpose(0, 1).flatten(1))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def angles_at(place: tuple[int, int, int], width: int) -> Tensor:
    side = 2 * (width // 6)
    channels = (width - 2 * side, side, side)
    parts = [
        p * 10000.0 ** (-2 * torch.arange(m // 2).double() / m) for p, m in zip(place, channels, strict=True)
    ]
    return torch.cat(parts)


def rms(x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], bias(weights, name))


def bias(weights: Weights, name: str) -> Tensor:
    return weights[f"{name}.bias"]


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
