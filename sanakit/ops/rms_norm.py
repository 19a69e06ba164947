"""Root-mean-square norm over the last axis with gain and bias, added to what it is a residual of, in one pass.

y = residual + x / sqrt(mean(x^2) + eps) * weight + bias
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm_add(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Give residual + the norm of x (no residual: the norm alone), of the shape of x.

    x, residual: ... x C. weight, bias: C. Without gradients the result may lie in the memory of x.
    """
    y = F.rms_norm(x, weight.shape, weight, eps) + bias
    return y if residual is None else residual + y
