"""Softmax attention, softmax(q k^T / sqrt(d)) v, from image tokens to the few tokens of a prompt.

Kernel: native/attention.cpp, one pass; plain twin: torch's scaled dot product attention.
Shapes: B batch, N queries, L keys, h heads, d head width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Let queries (B h N d) attend to keys and values (B h L d); B h N d.

    mask: B 1 1 L (B or 1), true where a key may be seen, or what is added to its score; None: all may.
    """
    library = native.kernels(query, key, value) if mask is None else None
    batch, heads, tokens, width = query.shape
    fits = key.shape == value.shape == (batch, heads, key.shape[2], width)
    if library is None or not fits or not query.stride(-1) == key.stride(-1) == value.stride(-1) == 1:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    y = query.new_empty(batch, tokens, heads, width)
    status = library.sana_attention(
        *(native.address(query), *query.stride()[:3]),
        *(native.address(key), *key.stride()[:3], native.address(value), *value.stride()[:3]),
        *(batch, heads, tokens, key.shape[2], width, width**-0.5),
        *(native.address(y), native.threads(4 * y.numel() * key.shape[2])),
    )
    native.check(status)
    return y.transpose(1, 2)
