"""ReLU linear attention whose numerator alone sees rotated queries and keys, as SANA-Video computes it.

q = relu(query), k = relu(key);  S = sum_m (R_m k_m) v_m^T,  z = sum_m k_m
out_n = (R_n q_n)^T S / (q_n . z)                                      (SANA-Video, arXiv:2509.24695)
R_m turns pairs of channels by angles that grow with the token's frame, row and column (RoFormer,
arXiv:2104.09864). The denominator stays a sum of positive numbers, since nothing is rotated in it.

Sums of parts of a clip add up, so tokens come in bands, and what earlier chunks of a clip have summed is all
that later ones need of them. Everything is computed in float32, or in float64 where the input is.
Shapes: B batch, N tokens, h heads, d head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sanakit.ops.linear_attention import EPSILON

BASE = 10000.0  # of the angles: pair j of m channels turns by position * BASE^(-2j/m)


class RotarySums(NamedTuple):
    """Sums over the tokens that can be attended to: of R k v^T, B h d d, and of k, B h d."""

    products: Tensor
    keys: Tensor

    def plus(self, other: RotarySums | None) -> RotarySums:
        """Return the sums over the tokens of both; None: of none."""
        if other is None:
            return self
        return RotarySums(self.products + other.products, self.keys + other.keys)


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """Return how many channels of a head turn with frame, row and column; even numbers."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rotations(frames: range, height: int, width: int, head_dim: int) -> Tensor:
    """Return the rotation of each token and pair of channels as complex128, T S d/2 on the CPU.

    frames: the numbers of T frames in their clip. S = height * width, row by row. head_dim: d, even.
    """
    tables = []
    for places, channels in zip((frames, range(height), range(width)), axis_channels(head_dim), strict=True):
        pairs = torch.arange(channels // 2, dtype=torch.float64, device="cpu")
        positions = torch.tensor(list(places), dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, BASE ** (-2 * pairs / channels))
        tables.append(torch.polar(torch.ones_like(angles), angles))
    time, rows, columns = tables
    shape = (len(frames), height, width, -1)
    parts = [time[:, None, None].expand(shape), rows[:, None].expand(shape), columns.expand(shape)]
    return torch.cat(parts, dim=-1).flatten(1, 2)


def rotary_sums(key: Tensor, value: Tensor, rotation: Tensor) -> RotarySums:
    """Sum over tokens. key (before its ReLU), value: B N h d; rotation: N d/2, complex."""
    with torch.autocast(key.device.type, enabled=False):
        key = _features(key)
        products = rotated(key, rotation).permute(0, 2, 3, 1) @ value.to(key.dtype).transpose(1, 2)
        return RotarySums(products, key.sum(1))


def rotary_attend(query: Tensor, sums: RotarySums, rotation: Tensor) -> Tensor:
    """Let queries (B N h d, before their ReLU) attend to what was summed. Returns B N h d, not rounded."""
    with torch.autocast(query.device.type, enabled=False):
        query = _features(query)
        total = (query * sums.keys[:, None]).sum(-1, keepdim=True)  # B N h 1
        out = rotated(query, rotation).transpose(1, 2) @ sums.products  # B h N d
        return out.transpose(1, 2) / (total + EPSILON)


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of channels. x: B N h d, float32 or float64; rotation: N d/2, complex."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation.to(pairs.dtype)[:, None]).flatten(-2)


def _features(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.float64 else x.float()).relu()
