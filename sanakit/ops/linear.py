"""Matrix product with weights as their file stores them: float32 arithmetic, 16-bit weights widened on the way.

y = x W^T + b
Shapes: M rows of x (all leading axes together), K channels in, N channels out.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give x W^T + b, ... x N, in the dtype of x.

    x: ... x K. weight: N x K, of any float dtype: widening float16 or bfloat16 to float32 is exact, so a
    checkpoint in 16 bits computes as its float32 copy would. bias: N, in the dtype of x.
    """
    return F.linear(x, weight.to(x.dtype), bias)
