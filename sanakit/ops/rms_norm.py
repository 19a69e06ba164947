"""Root-mean-square norm over the last axis with gain and bias, added to what it is a residual of.

y = residual + x / sqrt(mean(x^2) + eps) * weight + bias
Kernel: native/rms_norm.cpp, one pass over memory; plain twin: torch's operations, three passes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native


def rms_norm_add(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Return residual + the norm of x (no residual: the norm alone), of the shape of x.

    x, residual: ... x C. weight, bias: C. Without gradients the result may take the place of x in memory.
    """
    library = native.kernels(x, weight, bias, residual)
    width = x.shape[-1]
    fits = native.fits(weight, width) and native.fits(bias, width)
    if library is None or not fits or (residual is not None and residual.shape != x.shape):
        y = F.rms_norm(x, weight.shape, weight.to(x.dtype), eps) + bias.to(x.dtype)
        return y if residual is None else residual + y
    y = x.contiguous()
    residual = None if residual is None else residual.contiguous()
    library.sana_rms_norm_add(
        *(native.address(y), y.numel() // width, width, native.address(weight), native.address(bias)),
        *(native.address(residual), eps, native.address(y), native.threads(6 * y.numel())),
    )
    return y
