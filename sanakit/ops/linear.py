"""Matrix product with weights as their file stores them: 16-bit ones are widened on the way, which is exact.

y = x W^T + b, in float32 arithmetic.    Kernel: native/linear.cpp; plain twin: torch's linear.
Shapes: M rows of x (all leading axes together), K channels in, N channels out.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, ... x N, in the dtype of x.

    x: ... x K. weight: N x K (trailing ones are ignored), of any float dtype: widening float16 or bfloat16 to
    float32 is exact, so a checkpoint in 16 bits computes as its float32 copy would. bias: N, in x's dtype.
    """
    weight = weight.flatten(1)
    outputs, channels = weight.shape
    library = native.kernels(x, bias, weight=weight)
    if library is None or x.shape[-1] != channels or not native.fits(bias, outputs):
        return F.linear(x, weight.to(x.dtype), bias)  # which says what does not fit
    x, weight = x.contiguous(), weight.contiguous()
    rows = x.numel() // channels
    y = x.new_empty(*x.shape[:-1], outputs)
    status = library.sana_linear(
        native.address(x),
        rows,
        channels,
        native.address(weight),
        native.STORED[weight.dtype],
        outputs,
        native.address(bias),
        native.address(y),
        native.threads(2 * rows * channels * outputs),
    )
    native.check(status)
    return y
