"""The similarity of two images: PSNR and SSIM.

Shapes: B images, C channels, H W pixels; values in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11  # pixels; with SIGMA the Gaussian window of Wang et al. 2004
SIGMA = 1.5


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, B; infinite for equal images.

    images, references: B C H W in [-1, 1]: the peak is 2.
    """
    error = (images.float() - references.float()).div(2).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Return the structural similarity of each image, B, in [-1, 1] (Wang et al. 2004), averaged over
    channels.

    images, references: B C H W, at least 11 pixels a side. Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01,
    K2 = 0.03; only windows that lie inside the image count.
    """
    offsets = torch.arange(WINDOW, device=images.device) - WINDOW // 2
    window = torch.exp(-offsets.float().square() / (2 * SIGMA**2))
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        planes = x.flatten(0, 1)[:, None]  # B*C 1 H W
        return F.conv2d(F.conv2d(planes, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    x, y = (images.float() + 1) / 2, (references.float() + 1) / 2
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x.square(), blur(y * y) - mean_y.square()
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return similarity.view(len(images), -1).mean(1)
