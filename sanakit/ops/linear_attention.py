"""ReLU linear attention: softmax attention's O(N^2) becomes O(N) by summing keys and values first.

out_n = sum_m relu(q_n).relu(k_m) v_m / sum_m relu(q_n).relu(k_m)          (SANA, arXiv:2410.10629, eq. 1)

Shapes: B batch, N tokens, h heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-15  # keeps a token that attends to nothing finite; the value diffusers uses


def relu_linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with ReLU features in float32, whatever the dtype that comes in.

    query, key, value: B h N d, before the ReLU. Returns B h N d in float32.
    float32 because the sums run over all N tokens: at 4096 px that is 16,384 terms, beyond float16's range.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.float().relu(), key.float().relu(), value.float()
        summary = key.transpose(-1, -2) @ value  # B h d d
        total = key.sum(-2).unsqueeze(-1)  # B h d 1
        numerator_denominator = query @ torch.cat([summary, total], dim=-1)  # B h N d+1
        return numerator_denominator[..., :-1] / (numerator_denominator[..., -1:] + EPSILON)
