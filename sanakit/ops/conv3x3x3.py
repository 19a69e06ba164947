"""3x3x3 convolution of frames: of a frame and the two before it, on rows whose channels lie last.

Kernel: native/winograd.cpp, a quarter of the multiplications; plain twin: torch's convolution.
Shapes: B clips, T frames out, R rows, W columns, C channels in, K channels out.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanakit.ops import native
from sanakit.ops.conv3x3 import MIN_TILES

HISTORY = 2  # frames before the first one, which are only looked at
MIN_WIDTH = 32  # channels in or out from which the kernel's time is worth its rounding, ten times torch's


def conv3x3x3(
    frames: Tensor, weight: Tensor, bias: Tensor | None = None, *, above: int = 0, below: int = 0
) -> Tensor:
    """Convolve a band of rows of each frame: stride 1, zeros beside the image.

    frames: B T+2 R W C, the first two of them the frames before. weight: K C 3 3 3, of any float dtype; axes
    time, rows, columns. bias: K, in the dtype of the frames.
    above, below: 0 or 1, how many rows at the top and bottom are neighbours that are only looked at; where
    there is none, the image ends and zeros are. Returns B T R-above-below W K.
    """
    batch, given, height, width, channels = frames.shape
    outputs = weight.shape[0]
    shape = (batch, given - HISTORY, height - above - below, width, outputs)
    library = native.kernels(frames, bias, weight=weight)
    fits = weight.shape == (outputs, channels, 3, 3, 3) and native.fits(bias, outputs) and min(shape) > 0
    tiles = shape[0] * shape[1] * -(-shape[2] // 4) * -(-width // 4)
    if library is None or not fits or tiles < MIN_TILES or max(channels, outputs) < MIN_WIDTH:
        return _plain(frames, weight.to(frames.dtype), bias, above, below)
    frames, weight, y = frames.contiguous(), weight.contiguous(), frames.new_empty(shape)
    status = library.sana_conv3x3x3(
        *(native.address(frames), *shape[:2], height, width, channels, above, below),
        *(native.address(weight), native.STORED[weight.dtype], outputs, native.address(bias)),
        *(native.address(y), native.threads(54 * channels * y.numel())),
    )
    native.check(status)
    return y


def _plain(frames: Tensor, weight: Tensor, bias: Tensor | None, above: int, below: int) -> Tensor:
    """Sum 3x3 convolutions of the three frames: on a CPU up to eight times faster than torch's 3x3x3."""
    if frames.device.type != "cpu":
        x = F.pad(frames.permute(0, 4, 1, 2, 3), (0, 0, 1 - above, 1 - below))
        return F.conv3d(x, weight, bias, padding=(0, 0, 1)).permute(0, 2, 3, 4, 1)
    y = None
    for tap in range(3):
        some = frames[:, tap : frames.shape[1] - HISTORY + tap]  # B T R W C
        x = F.pad(some.flatten(0, 1).permute(0, 3, 1, 2), (0, 0, 1 - above, 1 - below))
        part = F.conv2d(x, weight[:, :, tap], bias if tap == 0 else None, padding=(0, 1))
        y = part if y is None else y.add_(part)
    assert y is not None
    return y.permute(0, 2, 3, 1).unflatten(0, frames[:, HISTORY:].shape[:2])
