"""A gated branch added to the tokens in one pass over memory; plain twin: `ops/modulation.py`.

Shapes: B samples, N tokens, D width.
"""

# A launch is not a call that Python's types describe:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # values that one program takes


def add_gated_(x: Tensor, y: Tensor, gate: Tensor | None) -> None:
    """Add gate * y to x in place; infinite float16 values of y count as the largest finite ones.

    x, y: B N D, the D values of a token side by side. gate: B 1 D or 1 1 D, likewise; None: 1.
    """
    batch, tokens, width = x.shape
    gate_stride = 0 if gate is None or len(gate) == 1 else gate.stride(0)
    with torch.cuda.device_of(x):
        _add_gated[(batch * tokens, -(-width // BLOCK))](
            *(x, y, x if gate is None else gate, tokens, width),
            *(*x.stride()[:2], *y.stride()[:2], gate_stride),
            GATED=gate is not None,
            HALF=y.dtype == torch.float16,
            BLOCK=BLOCK,
        )


@triton.jit
def _add_gated(
    x, y, gate, tokens, width, x_batch, x_token, y_batch, y_token, gate_stride,
    GATED: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < width
    added = tl.load(y + sample * y_batch + token * y_token + d, mask=inside, other=0).to(tl.float32)
    if HALF:  # what overflowed stays in range; NaN stays NaN
        added = tl.where(added > 65504.0, 65504.0, tl.where(added < -65504.0, -65504.0, added))
    if GATED:
        added *= tl.load(gate + sample * gate_stride + d, mask=inside, other=0).to(tl.float32)
    place = x + sample * x_batch + token * x_token + d
    tl.store(place, tl.load(place, mask=inside, other=0).to(tl.float32) + added, mask=inside)
