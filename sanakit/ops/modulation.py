"""LayerNorm whose gain and bias come from the timestep, as in diffusion transformers with adaptive norms.

y = norm(x) * (1 + scale) + shift                                        (adaLN; DiT, arXiv:2212.09748)
Shapes: B samples, N tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm without learned gain, then x * (1 + scale) + shift.

    x: B N D; scale, shift: B 1 D, or 1 1 D when the whole batch shares one time. In that case the
    modulation is the norm's own gain and bias: one pass over memory instead of three.
    """
    width = (x.shape[-1],)
    if scale.shape[0] == 1:
        gain, bias = (1 + scale).flatten().to(x.dtype), shift.flatten().to(x.dtype)
        return F.layer_norm(x, width, gain, bias, eps=EPS)
    return torch.addcmul(shift, F.layer_norm(x, width, eps=EPS), 1 + scale).to(x.dtype)
