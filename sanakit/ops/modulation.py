"""LayerNorm whose gain and bias come from the timestep, as in diffusion transformers with adaptive norms.

y = norm(x) * (1 + scale) + shift;  x += gate * branch(y)                (adaLN; DiT, arXiv:2212.09748)
Kernels for GPUs: gpu/modulated_norm.py and gpu/add_gated.py, one pass each; plain twins: torch's operations,
which torch.compile fuses as well.
Shapes: B samples, N tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import gpu

EPS = 1e-6


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the LayerNorm of x without learned gain, times (1 + scale), plus shift.

    x: B N D; scale, shift: B 1 D, or 1 1 D when the whole batch shares one time. In that case the
    modulation is the norm's own gain and bias: one pass over memory instead of three.
    """
    if gpu.kernels_run(x, scale, shift) and not torch.compiler.is_compiling():
        from sanakit.ops.gpu import modulated_norm as kernel

        if _fit(x, scale, shift) and x.shape[-1] <= kernel.MAX_WIDTH:
            return kernel.modulated_norm(x, scale, shift, EPS)
    width = (x.shape[-1],)
    if scale.shape[0] == 1:
        gain, bias = (1 + scale).flatten().to(x.dtype), shift.flatten().to(x.dtype)
        return F.layer_norm(x, width, gain, bias, eps=EPS)
    return torch.addcmul(shift, F.layer_norm(x, width, eps=EPS), 1 + scale).to(x.dtype)


def add_gated_(x: Tensor, y: Tensor, gate: Tensor | None = None) -> None:
    """Add gate * y to x in place; float16 values of y that overflowed count as the largest finite value.

    x, y: B N D. gate: B 1 D or 1 1 D; None: 1.
    """
    if gpu.kernels_run(x, y, gate) and not torch.compiler.is_compiling() and x.shape == y.shape:
        from sanakit.ops.gpu import add_gated as kernel

        if _fit(x, gate) and y.stride(-1) == x.stride(-1) == 1:
            return kernel.add_gated_(x, y, gate)
    if y.dtype == torch.float16:
        y = y.clamp(-65504, 65504)
    if gate is None:
        x += y
    else:
        x.addcmul_(y, gate)


def _fit(x: Tensor, *parts: Tensor | None) -> bool:
    """Return whether parts of a modulation are contiguous and have the shapes that a kernel expects."""
    shapes = ((1, 1, x.shape[-1]), (x.shape[0], 1, x.shape[-1]))
    return x.ndim == 3 and all(p is None or (p.shape in shapes and p.stride(-1) == 1) for p in parts)
