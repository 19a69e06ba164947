"""Perceptual loss: the distance of two images in an image classifier's features.

LPIPS without its learned weights (Zhang et al. 2018, arXiv:1801.03924, section 3): feature maps of five
resolutions, the features at each position scaled to length 1, squared distances averaged over positions and
maps. The network is EfficientNet-Lite0 (extra [eval]), not VGG-16: 40 times less work, weights in a package.

Both images get the same grain first. On flat areas, such as backgrounds of drawings, this network reacts to
invisible differences. On drawings, noise of half a grey level had a distance of 0.114, a blur with a 3x3 box
0.067. Under grain of 8 grey levels the noise is at 0.002, the blur at 0.054.
Shapes: B images, C channels, H W pixels, at least 32 a side.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SizeError
from sanakit.eval.networks.efficientnet import EfficientNetLite0, load_efficientnet, to_network

GRAIN = 8 * 2 / 255  # standard deviation: 8 grey levels
GRAIN_SIDE = 256  # pixels of the square that is laid out over larger images
SMALLEST = 32  # pixels a side: the coarsest map has then one position


class PerceptualDistance(nn.Module):
    """Distance of drawn images from wanted ones, B, in [0, 4]; its network is frozen.

    network: None loads the ImageNet weights; raises MissingExtraError where their package is not installed.
    """

    def __init__(self, network: EfficientNetLite0 | None = None) -> None:
        super().__init__()
        self.network = (network or load_efficientnet()).requires_grad_(False)
        generator, shape = torch.Generator().manual_seed(0), (3, GRAIN_SIDE, GRAIN_SIDE)
        grain = torch.randn(shape, generator=generator, dtype=torch.float32) * GRAIN
        self.register_buffer("grain", grain, persistent=False)
        self.train(False)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode: the running statistics of the network's norms are part of its weights."""
        return super().train(False)

    def forward(self, drawn: Tensor, wanted: Tensor) -> Tensor:
        """Compare images of one shape, B 3 H W in [-1, 1]; gradients flow to `drawn` only.

        Raises SizeError below 32 pixels a side.
        """
        if min(drawn.shape[-2:]) < SMALLEST:
            height, width = drawn.shape[-2:]
            raise SizeError(
                f"The perceptual loss got images of {width}x{height}: sides need {SMALLEST} pixels, at least."
            )
        with torch.no_grad():
            goals = self._directions(wanted)
        distances = [
            (x - goal).square().sum(1).mean((1, 2))
            for x, goal in zip(self._directions(drawn), goals, strict=True)
        ]
        return torch.stack(distances).mean(0)

    def _directions(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        grain = cast(Tensor, self.grain)
        grain = grain.tile(1, -(-height // GRAIN_SIDE), -(-width // GRAIN_SIDE))[:, :height, :width]
        maps = self.network.feature_maps(to_network(images + grain))
        return [F.normalize(features.float(), dim=1) for features in maps]
