"""3x3 convolution of rows of a picture whose channels lie last, whole or in bands; also after upsampling.

Shapes: B pictures, R rows, W columns, C channels in, K channels out, s = 2 with upsampling and else 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Convolve a band of rows: stride 1, zeros beside the picture, and silu(...) of it if asked.

    rows: B R W C. weight: K C 3 3, of any float dtype. bias: K.
    above, below: 0 or 1, how many rows of `rows` at its top and bottom are neighbours that are only looked at;
    where there is none, the picture ends there and zeros are.
    upsample: double both sides first, each cell repeated (nearest neighbour); neighbours are rows of the
    small picture. Returns B s(R - above - below) sW K.
    """
    x = rows.permute(0, 3, 1, 2)
    if upsample:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = x[:, :, above : x.shape[2] - below]  # of a doubled neighbour, one row is looked at
    x = F.pad(x, (0, 0, 1 - above, 1 - below))
    y = F.conv2d(x, weight.to(x.dtype), bias, padding=(0, 1)).permute(0, 2, 3, 1)
    return F.silu(y, inplace=not torch.is_grad_enabled()) if silu else y
