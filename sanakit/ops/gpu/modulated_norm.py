"""LayerNorm and its modulation by the timestep in one pass over memory; plain twin: `ops/modulation.py`.

One program takes one token, whose D values stay in registers between mean, variance and result.
Shapes: B samples, N tokens, D width.
"""

# A launch is not a call that Python's types describe:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_WIDTH = 16384  # D: values that one program holds


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Return norm(x) * (1 + scale) + shift, B N D in the dtype of x.

    x: B N D, D at most MAX_WIDTH. scale, shift: B 1 D, or 1 1 D for the whole batch, values side by side.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    batch, tokens, width = x.shape
    block = 1 << (width - 1).bit_length()
    strides = [part.stride(0) if len(part) > 1 else 0 for part in (scale, shift)]
    with torch.cuda.device_of(x):
        _modulated_norm[(batch * tokens,)](
            *(x, scale, shift, y, tokens, *strides, width, eps),
            BLOCK=block,
            num_warps=min(16, max(1, block // 512)),
        )
    return y


@triton.jit
def _modulated_norm(
    x, scale, shift, y, tokens, scale_stride, shift_stride, width, eps, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample = row // tokens
    d = tl.arange(0, BLOCK)
    inside = d < width
    values = tl.load(x + row * width + d, mask=inside, other=0).to(tl.float32)
    centred = tl.where(inside, values - tl.sum(values) / width, 0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred) / width + eps)
    gain = 1 + tl.load(scale + sample * scale_stride + d, mask=inside, other=0).to(tl.float32)
    bias = tl.load(shift + sample * shift_stride + d, mask=inside, other=0).to(tl.float32)
    tl.store(y + row * width + d, normed * gain + bias, mask=inside)
