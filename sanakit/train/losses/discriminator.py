"""Patch discriminator: tells real images from reconstructed ones, patch by patch, and teaches the decoder.

Architecture: Isola et al. 2017 (arXiv:1611.07004), 4x4 convolutions; with three layers each judgement sees 70
pixels a side. Group norm replaces batch norm: an image's judgement must not depend on the rest of the batch,
which varies with ranks and micro-batches. Hinge loss: Lim and Ye 2017 (arXiv:1705.02894).

Both sides learn from one loss and one backward pass. `decoder_loss` judges with detached weights, so its
gradient only reaches the images. `hinge_loss` judges detached images, so its gradient only reaches the
discriminator. The gradients are those of the two steps that are usually taken in turn, of the same weights.
Shapes: B images, H W pixels, h w judgements, about H/8 W/8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sanakit.errors import SettingsError

GROUPS = 8


class PatchDiscriminator(nn.Module):
    """Images B 3 H W in [-1, 1] to judgements B 1 h w, positive for real.

    width: channels of the first layer, a multiple of 8; they double up to eight times that. layers: of stride
    2, at least 1. Weights are drawn from N(0, 0.02), as published. Raises SettingsError for other values.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if width < GROUPS or width % GROUPS or layers < 1:
            raise SettingsError(
                f"There is no patch discriminator of width {width} with {layers} layers: use a multiple of "
                f"{GROUPS} and at least 1 layer; 64 and 3 are usual."
            )
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs = width
        for index in range(1, layers + 1):
            outputs = width * min(2**index, 8)
            stride = 2 if index < layers else 1
            parts += [
                nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(GROUPS, outputs),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        parts.append(nn.Conv2d(inputs, 1, 4, padding=1))
        self.layers = nn.Sequential(*parts)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Judge each patch of the images."""
        return self.layers(images)


def hinge_loss(discriminator: nn.Module, drawn: Tensor, real: Tensor) -> Tensor:
    """Return the discriminator's loss, B: 2 when it knows nothing, 0 when it is always right and sure.

    drawn, real: B 3 H W in [-1, 1]; no gradient reaches them.
    """
    of_real, of_drawn = discriminator(torch.cat([real.detach(), drawn.detach()])).chunk(2)
    return _per_image(F.relu(1 - of_real)) + _per_image(F.relu(1 + of_drawn))


def decoder_loss(discriminator: nn.Module, drawn: Tensor) -> Tensor:
    """Return the decoder's adversarial loss, B: minus the mean judgement of its images (B 3 H W).

    The gradient reaches `drawn` and no weight of the discriminator.
    """
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return -_per_image(functional_call(discriminator, fixed, (drawn,)))


def _per_image(judgements: Tensor) -> Tensor:
    return judgements.float().flatten(1).mean(1)
