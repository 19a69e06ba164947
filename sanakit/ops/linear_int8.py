"""Matrix product in 8 bits: rows of x rounded as they come, the weight once; no calibration.

x ~ q_x s_x by row (token), W ~ q_w s_w by row (output channel);  y = s_x s_w (q_x q_w^T) + b
q_x has 8 bits, but for values that stand out: more than `OUTLYING` times the root mean square of the row's
others. Those have 16 and leave the scale to the others. Rounding adds noise of s^2 / 12 (uniform between two
levels), so at most OUTLYING / 127 / sqrt(12) = 1.8 % of that root mean square. Outliers cost time in
proportion to their number, not accuracy. Kernel: native/linear_int8.cpp, with the norm before and the gated
sum after; plain twin: torch's operations.
Shapes: M rows of x (all leading axes together), K channels in, N channels out.
Source: per-token, per-channel W8A8 as in SmoothQuant (arXiv:2211.10438); outliers apart as in LLM.int8()
(arXiv:2208.07339), but by value instead of by channel, and found again in each token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native

OUTLYING = 8.0
# As in the kernel:
PASSES = 3  # in which outliers are looked for, each without those of the one before
MOST = 65_000  # levels of an outlier


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round the rows of a matrix to 8 bits: whole numbers in [-127, 127], int8 N K, and their scales, N.

    weight: N K, of any float dtype. Row i is about whole[i] * scale[i], within half a scale.
    """
    scale = weight.abs().amax(1).float() / 127
    steps = torch.where(scale > 0, scale, 1.0)
    return (weight.float() / steps[:, None]).round_().to(torch.int8), scale


def linear_int8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    norm: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """Return x W^T + b, ... x N, in the dtype of x.

    x: ... x K. weight, scale: as from `quantize_rows`. bias: N. norm: gain K, shift K and eps of a LayerNorm
    of x that comes first.
    """
    out = x.new_empty(*x.shape[:-1], len(weight))
    if _kernel(x, weight, scale, bias, out, norm=norm):
        return out
    return _plain(x, weight, scale, bias, norm)


def add_linear_int8_(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
) -> None:
    """Add gate * (x W^T + b) to y (... x N) in place. gate: N; None: 1. The others as for `linear_int8`."""
    if y.is_contiguous() and _kernel(x, weight, scale, bias, y, add=True, gate=gate):
        return
    out = _plain(x, weight, scale, bias, None)
    y += out if gate is None else gate * out


def _plain(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, norm: tuple[Tensor, Tensor, float] | None
) -> Tensor:
    """Return the same with whole numbers in float32, whose products and sums are nearly exact."""
    rows = x.float()
    if norm is not None:
        gain, shift, eps = norm
        rows = F.layer_norm(rows, gain.shape, gain.float(), shift.float(), eps)
    of_row = _scales(rows)
    levels = (rows / torch.where(of_row > 0, of_row, 1.0)).round()
    y = F.linear(levels, weight.float()) * of_row * scale
    return (y if bias is None else y + bias).to(x.dtype)


def _scales(rows: Tensor) -> Tensor:
    """Return the scale of each row, M 1; a row with NaN or infinity has that as its scale."""
    size = rows.abs()
    top = size.amax(-1, keepdim=True)
    square = rows.square().sum(-1, keepdim=True)
    bound = limit = OUTLYING * (square / rows.shape[-1]).sqrt()
    for _ in range(PASSES - 1):
        bound = OUTLYING * torch.where(size > bound, 0.0, rows).square().mean(-1, keepdim=True).sqrt()
    # Rounded up to 8 bits, it is the same in whatever order squares are summed.
    rounded = ((bound / 127 * (1 + 2**-7)).view(torch.int32) & -(1 << 16)).view(torch.float32)
    none = (top <= limit) | (square < 1e-30)  # squares that vanish tell nothing
    scale = torch.where(none, top / 127, torch.maximum(rounded, top / MOST))
    return torch.where(limit.isfinite(), scale, torch.nan)


def _kernel(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    y: Tensor,
    *,
    norm: tuple[Tensor, Tensor, float] | None = None,
    add: bool = False,
    gate: Tensor | None = None,
) -> bool:
    """Let the kernel write y, or add to it, if it can; tell whether it did."""
    outputs, channels = weight.shape
    gain, shift, eps = norm or (None, None, 0.0)
    library = native.kernels(x, scale, bias, gate, gain, shift, y)
    fits = (
        all(native.fits(vector, outputs) for vector in (scale, bias, gate))
        and all(native.fits(vector, channels) for vector in (gain, shift))
        and (x.shape[-1], y.shape) == (channels, (*x.shape[:-1], outputs))
        and (weight.dtype, weight.device.type, weight.is_contiguous()) == (torch.int8, "cpu", True)
    )
    if library is None or not fits:
        return False
    x = x.contiguous()
    rows = x.numel() // channels
    status = library.sana_linear_int8(
        *(native.address(x), rows, channels, native.address(gain), native.address(shift), eps),
        *(native.address(weight), native.address(scale), outputs, native.address(bias), OUTLYING),
        *(native.address(y), int(add), native.address(gate), native.threads(2 * rows * channels * outputs)),
    )
    native.check(status)
    return True
