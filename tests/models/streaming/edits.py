"""Tiny SANA-Streaming models of random numbers, inputs, and the model written out in float64.

What is written out shares nothing with the package but the sinusoid of times: it reads tensors by their
official names, and follows the delta rule frame by frame as NVlabs/Sana's torch code does.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.models.layers import sinusoid
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.streaming.sana_streaming import SanaStreaming
from tests.models.video.sana_video2.written_out import angles_at, cross, linear, rms, softmax_numbers, turned

TINY = SanaStreamingConfig(
    depth=4, width=64, cross_heads=2, head_dim=32, text_width=12, latent_channels=4, max_positions=32
)
VARIANTS = {
    "streaming": TINY,
    "bidirectional": replace(TINY, variant="bidirectional"),
    "wide heads": replace(TINY, width=96, head_dim=48, cross_heads=4, softmax_share=0.5, softmax_taps=1),
}
GRID = (7, 2, 3)
CHUNKS = [3, 2, 2]
Weights = dict[str, Tensor]


def randomised(config: SanaStreamingConfig, std: float = 0.15) -> SanaStreaming:
    model = SanaStreaming(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=std)
    return model.eval()


def inputs(config: SanaStreamingConfig, batch: int = 2, tokens: int = 5, grid=GRID) -> dict[str, Tensor]:
    """A batch whose text is padded, with garbage behind the mask, and a time for each frame."""
    lengths = torch.tensor([tokens, *range(2, batch + 1)])[:batch]
    return {
        "latents": torch.randn(batch, config.latent_channels, *grid),
        "t": torch.linspace(0.9, 0.2, batch * grid[0]).view(batch, -1),
        "text": torch.randn(batch, tokens, config.text_width),
        "mask": torch.arange(tokens) < lengths[:, None],
        "source": torch.randn(batch, config.latent_channels, *grid),
    }


def written_out(model: SanaStreaming, some: dict[str, Tensor], chunks: list[int] | None = None) -> Tensor:
    """The velocity of a batch, sample by sample, whole or in chunks with what earlier ones leave."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    frames = some["latents"].shape[2]
    outs = []
    for x, at, y, real, source in zip(
        *(some[n] for n in ("latents", "t", "text", "mask", "source")), strict=True
    ):
        both, past, start, parts = torch.cat([x, source]).double(), None, 0, []
        for count in chunks or [frames]:
            piece = slice(start, start + count)
            out, past = _chunk(
                weights, model.config, both[:, piece], at[piece], y.double()[real], past, start
            )
            parts.append(out)
            start += count
        outs.append(torch.cat(parts, dim=1))
    return torch.stack(outs)


def _chunk(weights, config, latents, t, text, past, start):
    """One chunk of one sample, and the past with it: for each block what attention and convolution keep."""
    frames, height, width = latents.shape[1:]
    tokens = height * width
    places = [(start + f, y, x) for f in range(frames) for y in range(height) for x in range(width)]
    angles = torch.stack([angles_at(place, config.head_dim) for place in places])
    x = (
        latents.flatten(1).T @ weights["x_embedder.proj.weight"].flatten(1).T
        + weights["x_embedder.proj.bias"]
    )
    time = sinusoid(torch.floor(1000 * t.double() + 1e-4), 256).double()
    time = linear(weights, "t_embedder.mlp.2", F.silu(linear(weights, "t_embedder.mlp.0", time)))
    modulation = linear(weights, "t_block.1", F.silu(time)).unflatten(1, (6, -1))
    y = F.gelu(linear(weights, "y_embedder.y_proj.fc1", text), approximate="tanh")
    y = rms(linear(weights, "y_embedder.y_proj.fc2", y), 1e-5) * weights["attention_y_norm.weight"]
    kept = []
    for number in range(config.depth):
        name, before = f"blocks.{number}", past[number] if past else (None, None)
        rows = (weights[f"{name}.scale_shift_table"] + modulation).repeat_interleave(tokens, 0).unbind(1)
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + rows[1]) + rows[0]
        kind = _softmax if number in softmax_numbers(config) else _delta
        own, state = kind(weights, f"{name}.attn", normed, angles, config, frames, before[0])
        x = x + rows[2] * own
        x = x + cross(weights, f"{name}.cross_attn", x, y, config.cross_heads)
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + rows[4]) + rows[3]
        mixed, last = _ffn(weights, f"{name}.mlp", normed, (frames, height, width), before[1])
        x = x + rows[5] * mixed
        kept.append((state, last))
    shift, scale = (
        (weights["final_layer.scale_shift_table"] + time[:, None]).repeat_interleave(tokens, 0).unbind(1)
    )
    x = linear(weights, "final_layer.linear", F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
    return x.T.reshape(-1, frames, height, width), kept


def _heads(weights, name, x, width):
    """Queries, keys and values, h N d; of weights with taps over time the middle one."""
    found = []
    for part in "qkv":
        matrix = weights[f"{name}.{part}.weight"]
        matrix = matrix if matrix.ndim == 2 else matrix[:, :, matrix.shape[2] // 2]
        rows = x @ matrix.T
        if part != "v":
            rows = rms(rows, 1e-5) * weights[f"{name}.{part}_norm.weight"]
        found.append(rows.unflatten(1, (-1, width)).transpose(0, 1))
    return found


def _gated(weights, name, out, x):
    gate = F.silu(linear(weights, f"{name}.output_gate", x))
    return linear(weights, f"{name}.proj", out.transpose(0, 1).flatten(1) * gate)


def _softmax(weights, name, x, angles, config, frames, past):
    query, key, value = _heads(weights, name, x, config.head_dim)
    past = [*(past or []), (turned(key, angles), value)]
    keys, values = (torch.cat(parts, dim=1) for parts in zip(*past, strict=True))
    out = (turned(query, angles) @ keys.transpose(1, 2) / math.sqrt(config.head_dim)).softmax(-1) @ values
    return _gated(weights, name, out, x), past[:1] if len(past) == 1 else [past[0], past[-1]]


def _delta(weights, name, x, angles, config, frames, past):
    """Numerator and denominator by the rule itself: all tokens of a frame read one decayed state."""
    query, key, value = _heads(weights, name, x, config.head_dim)
    tokens = x.shape[0] // frames
    query, key = query.relu(), key.relu() / math.sqrt(config.head_dim * tokens)
    beta = linear(weights, f"{name}.beta_proj", x).sigmoid().T  # h N
    mean = x.unflatten(0, (frames, tokens)).mean(1)
    rate = weights[f"{name}.A_log"].exp()
    decay = torch.exp(
        -rate * F.softplus(linear(weights, f"{name}.gate_proj", mean) + weights[f"{name}.dt_bias"])
    )
    ways = [
        (turned(query, angles), turned(key, angles), value),
        (query, key, torch.ones_like(value[..., :1])),
    ]
    totals, states = [], []
    for number, (q, k, v) in enumerate(ways):
        zero = torch.zeros(len(q), q.shape[-1], v.shape[-1], dtype=torch.float64)

        def step(state, t, k=k, v=v):
            rows = slice(t * tokens, (t + 1) * tokens)
            old = decay[t][:, None, None] * state
            change = beta[:, rows, None] * (v[:, rows] - k[:, rows] @ old)
            return old + k[:, rows].transpose(1, 2) @ change

        state, ahead, behind = zero if past is None else past[number], [], [zero] * frames
        for t in range(frames):
            state = step(state, t)
            ahead.append(state)
        for t in range(frames - 2, -1, -1):
            behind[t] = step(behind[t + 1], t + 1)
        each = [q[:, t * tokens : (t + 1) * tokens] @ (ahead[t] + behind[t]) for t in range(frames)]
        totals.append(torch.cat(each, dim=1))
        states.append(state)
    return _gated(weights, name, totals[0] / (totals[1] + 1e-8), x), states


def _ffn(weights, name, x, grid, before):
    wide = F.conv2d(
        x.unflatten(0, grid).permute(0, 3, 1, 2),
        weights[f"{name}.inverted_conv.conv.weight"],
        weights[f"{name}.inverted_conv.conv.bias"],
    )
    depth = weights[f"{name}.depth_conv.conv.weight"]
    bias = weights[f"{name}.depth_conv.conv.bias"]
    wide = F.conv2d(F.silu(wide), depth, bias, padding=1, groups=len(depth))
    value, gate = wide.chunk(2, dim=1)
    y = (
        F.conv2d(value * F.silu(gate), weights[f"{name}.point_conv.conv.weight"]).flatten(2).transpose(1, 2)
    )  # T S D
    taps = weights[f"{name}.t_conv.weight"][..., 0].unbind(-1)
    zero = torch.zeros_like(y[:1])
    left = torch.cat([zero if before is None else before, y[:-1]])
    right = torch.cat([y[1:], zero])
    return (y + left @ taps[0].T + y @ taps[1].T + right @ taps[2].T).flatten(0, 1), y[-1:]
