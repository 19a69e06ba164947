"""ReLU linear attention: softmax attention's O(N^2) becomes O(N) by summing keys and values first.

out_n = sum_m relu(q_n).relu(k_m) v_m / sum_m relu(q_n).relu(k_m)          (SANA, arXiv:2410.10629, eq. 1)

The two halves are functions of their own: sums of bands of tokens add up, so an image can be attended to
band by band. Kernels: native/linear_attention.cpp, for heads of 32 channels, and gpu/linear_attention.py;
plain twins: torch's matrix products.
Shapes: B batch, N tokens, h heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.ops import gpu, native

EPSILON = 1e-15  # keeps a token that attends to nothing finite; the value diffusers uses
_KERNEL_WIDTH = 32  # d that the kernels are compiled for


def relu_linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with ReLU features in float32, whatever the input's dtype.

    query, key, value: B h N d, before the ReLU. Returns B h N d as `attend` does.
    float32 because the sums run over all N tokens: at 4096 px that is 16,384 terms, beyond float16's range.
    """
    return attend(query, attention_sums(key, value))


def attention_sums(key: Tensor, value: Tensor) -> Tensor:
    """Sum relu(k) v over the tokens, and relu(k) itself in a last row: B h d+1 d, float32."""
    if gpu.kernels_run(key, value) and key.dtype == value.dtype and key.shape == value.shape:
        from sanakit.ops.gpu import linear_attention as kernel

        if key.shape[-1] <= kernel.MAX_WIDTH and key.stride(-1) == value.stride(-1) == 1:
            return kernel.attention_sums(key, value)
    library = native.kernels(key, value)
    if library is None or not (_fits(key) and _fits(value) and key.shape == value.shape):
        with torch.autocast(key.device.type, enabled=False):
            key, value = key.float().relu(), value.float()
            return torch.cat([key.transpose(-1, -2) @ value, key.sum(-2, keepdim=True)], dim=-2)
    batch, heads, tokens, width = key.shape
    sums = key.new_empty(batch, heads, width + 1, width)
    library.sana_attention_sums(
        *(native.address(key), *key.stride()[:3]),
        *(native.address(value), *value.stride()[:3]),
        *(batch, heads, tokens, native.address(sums), native.threads(2 * value.numel() * width)),
    )
    return sums


def attend(query: Tensor, sums: Tensor) -> Tensor:
    """Let queries (B h N d, before the ReLU) attend to what `attention_sums` gave.

    Returns B h N d in float32; on a GPU in the dtype of the queries, to which the kernel rounds its result.
    """
    batch, heads, tokens, width = query.shape
    if gpu.kernels_run(query, sums) and sums.shape == (batch, heads, width + 1, width):
        from sanakit.ops.gpu import linear_attention as kernel

        if width <= kernel.MAX_WIDTH and query.stride(-1) == 1:
            return kernel.attend(query, sums, EPSILON)
    library = native.kernels(query, sums)
    if library is None or not _fits(query) or sums.shape != (batch, heads, width + 1, width):
        with torch.autocast(query.device.type, enabled=False):
            query = query.float().relu()
            total = query @ sums[..., -1:, :].transpose(-1, -2)  # B h N 1
            return query @ sums[..., :-1, :] / (total + EPSILON)
    sums, y = sums.contiguous(), query.new_empty(batch, tokens, heads, width)
    library.sana_attend(
        *(native.address(query), *query.stride()[:3], native.address(sums)),
        *(batch, heads, tokens, EPSILON, native.address(y), native.threads(2 * y.numel() * width)),
    )
    return y.transpose(1, 2)


def _fits(x: Tensor) -> bool:
    """Return whether heads (B h N d) have the kernels' width and contiguous values."""
    return x.shape[-1] == _KERNEL_WIDTH and x.stride(-1) == 1
