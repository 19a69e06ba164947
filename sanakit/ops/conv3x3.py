"""3x3 convolution of rows of an image whose channels lie last, whole or in bands; also after upsampling.

Kernel: native/winograd.cpp, a quarter of the multiplications; plain twin: torch's convolution.
Shapes: B images, R rows, W columns, C channels in, K channels out, s = 2 with upsampling and else 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native

MIN_TILES = 32  # tiles of 4x4 outputs, below which transforming the weights costs more than it saves


def conv3x3(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    above: int = 0,
    below: int = 0,
    upsample: bool = False,
    silu: bool = False,
) -> Tensor:
    """Convolve a band of rows: stride 1, zeros beside the image, and silu(...) of it if asked.

    rows: B R W C. weight: K C 3 3, of any float dtype. bias: K.
    above, below: 0 or 1, how many rows at the top and bottom of `rows` are neighbours that are only looked
    at; where there is none, the image ends and zeros are.
    upsample: double both sides first, each cell repeated (nearest neighbour); neighbours are rows of the
    small image. Returns B s(R - above - below) sW K.
    """
    batch, height, width, channels = rows.shape
    outputs, scale = weight.shape[0], 2 if upsample else 1
    shape = (batch, scale * (height - above - below), scale * width, outputs)
    library = native.kernels(rows, bias, weight=weight)
    fits = weight.shape == (outputs, channels, 3, 3) and native.fits(bias, outputs)
    if library is None or not fits or batch * -(-shape[1] // 4) * -(-shape[2] // 4) < MIN_TILES:
        return _plain(rows, weight, bias, above, below, upsample, silu)
    rows, weight, y = rows.contiguous(), weight.contiguous(), rows.new_empty(shape)
    status = library.sana_conv3x3(
        *(native.address(rows), batch, height, width, channels, above, below, upsample),
        *(native.address(weight), native.STORED[weight.dtype], outputs, native.address(bias)),
        *(silu, native.address(y), native.threads(18 * channels * y.numel())),
    )
    native.check(status)
    return y


def _plain(
    rows: Tensor, weight: Tensor, bias: Tensor | None, above: int, below: int, upsample: bool, silu: bool
) -> Tensor:
    x = rows.permute(0, 3, 1, 2)
    if upsample:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = x[:, :, above : x.shape[2] - below]  # of a doubled neighbour, one row is looked at
    x = F.pad(x, (0, 0, 1 - above, 1 - below))
    y = F.conv2d(x, weight.to(x.dtype), bias, padding=(0, 1)).permute(0, 2, 3, 1)
    return F.silu(y, inplace=not torch.is_grad_enabled()) if silu else y
