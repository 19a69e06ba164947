"""The middle of a Mix-FFN: SiLU, depthwise 3x3 convolution, one half of the channels gating the other.

(value, gate) = conv(silu(x));  y = value * silu(gate)             (GLUMBConv; SANA, arXiv:2410.10629)
Kernels: native/gated_depthwise.cpp and, for GPUs, gpu/gated_depthwise.py, one pass over memory each; plain
twin: torch's operations, five passes.
Shapes: B images, R rows, W columns, M channels of each half.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import gpu, native


def gated_depthwise(
    rows: Tensor, weight: Tensor, bias: Tensor | None, *, above: int = 0, below: int = 0
) -> Tensor:
    """Return value * silu(gate) of a band of rows, B (R - above - below) W M.

    rows: B R W 2M, before its SiLU. weight: 2M 1 3 3. bias: 2M. above, below: as for `conv3x3`.
    """
    batch, height, width, both = rows.shape
    fits = both % 2 == 0 and weight.shape == (both, 1, 3, 3) and native.fits(bias, both)
    if fits and gpu.kernels_run(rows, weight, bias):
        from sanakit.ops.gpu import gated_depthwise as kernel

        return kernel.gated_depthwise(rows, weight, bias, above, below)
    library = native.kernels(rows, weight, bias)
    if library is None or not fits:
        x = F.pad(F.silu(rows).permute(0, 3, 1, 2), (0, 0, 1 - above, 1 - below))
        x = F.conv2d(x, weight, bias, padding=(0, 1), groups=x.shape[1]).permute(0, 2, 3, 1)
        value, gate = x.chunk(2, dim=-1)
        return value * F.silu(gate)
    rows, taps = rows.contiguous(), weight.flatten(1).t().contiguous()
    y = rows.new_empty(batch, height - above - below, width, both // 2)
    status = library.sana_gated_depthwise(
        *(native.address(rows), batch, height, width, both // 2, above, below),
        *(native.address(taps), native.address(bias), native.address(y), native.threads(60 * y.numel())),
    )
    native.check(status)
    return y
