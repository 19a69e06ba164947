"""SiLU of a vector that was brought to one length: silu(x / max(|x|, 1e-12) * weight) over the last axis.

Kernel: native/rms_norm.cpp, one pass over memory; plain twin: torch's operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native


def norm_silu(x: Tensor, weight: Tensor) -> Tensor:
    """Return silu of the normalised x times weight, of the shape and dtype of x.

    x: ... x C. weight: C, in the dtype of x. 16-bit values are normalised in float32.
    """
    library = native.kernels(x, weight)
    width = x.shape[-1]
    if library is None or not native.fits(weight, width):
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return F.silu(F.normalize(wide, dim=-1).to(x.dtype) * weight)
    x = x.contiguous()
    y = torch.empty_like(x)
    library.sana_norm_silu(
        *(native.address(x), y.numel() // width, width, native.address(weight), native.address(y)),
        native.threads(12 * y.numel()),
    )
    return y
