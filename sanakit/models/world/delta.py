"""Gated delta attention with positions and a denominator, as SANA-WM and SANA-Streaming have it.

numerator: of rotated queries and keys; denominator: of plain ones, with values of ones. Each is a sum over
the frames before and, inside a chunk, behind (`ops/gated_delta.py`); one division follows. How much a token
writes (beta) and a frame keeps (decay) are read off the tokens.
Shapes: B batch, T frames, S tokens of a frame, N = T*S, D width, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.ops.gated_delta import gated_delta, wide
from sanakit.ops.rotary_linear_attention import rotated

EPSILON = 1e-8  # beside the denominator, as the released blocks have it


def frame_gates(
    frames: Tensor, beta_proj: nn.Module, gate_proj: nn.Module, log_rate: Tensor, dt_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return beta, B T S h, and the decay, B T h, of frames, B T S D. log_rate (`A_log`), dt_bias: h."""
    steps = F.softplus(wide(gate_proj(frames.mean(2))) + wide(dt_bias))
    return wide(beta_proj(frames).sigmoid()), torch.exp(-wide(log_rate).exp() * steps)


def delta_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rotation: Tensor,
    beta: Tensor,
    decay: Tensor,
    chunks: Sequence[int],
    past: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, B N D, and the states of numerator and denominator behind the last frame.

    query, key, value: B N h d in float32 or float64. rotation: N d/2, complex. beta, decay: of `frame_gates`.
    chunks: frames of each, T in all. past: both states before these frames, B h d d and B h d 1.
    """
    products, keys = past or (None, None)
    parts = (
        rotated(query, rotation),
        rotated(key, rotation),
        value,
        query,
        key,
        torch.ones_like(value[..., :1]),
    )
    turned_query, turned_key, value, query, key, ones = (
        part.unflatten(1, (beta.shape[1], -1)) for part in parts
    )
    total, products = gated_delta(turned_query, turned_key, value, beta, decay, state=products, chunks=chunks)
    weight, keys = gated_delta(query, key, ones, beta, decay, state=keys, chunks=chunks)
    return (total / (weight + EPSILON)).flatten(1, 2).flatten(2), products, keys
