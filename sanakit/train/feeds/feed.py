"""Feeds: sources of latents for part of a batch, or of images to encode, with their captions.

Shapes: B samples of a part, C h w latents, H W pixels, L text tokens of a sample, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sanakit.models.dc_ae import DCAE
from sanakit.train.parts import Part


@dataclass(frozen=True, slots=True, eq=False)
class Unencoded:
    """Images that are encoded inside the loss, so that encoding does not count as waiting for data.

    images: B 3 H W in [-1, 1], on the codec's device.
    """

    images: Tensor
    codec: DCAE

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the latents' shape, B C h w."""
        height, width = (side // self.codec.config.compression for side in self.images.shape[-2:])
        return len(self.images), self.codec.config.latent_channels, height, width

    def encode(self) -> Tensor:
        """Return the scaled latents."""
        return encoded(self.codec, self.images)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A part of a step's batch.

    latents: B C h w, scaled. captions: B, "" where there is none. shares: B, what each sample counts in the
    loss of the global batch: one over its size, 0 where it is empty or broken; None: none is. features: of
    the captions, L E each, from a cache; empty: to be computed.
    """

    latents: Tensor | Unencoded
    captions: list[str]
    shares: Tensor | None = None
    features: Sequence[Tensor] = ()


class Feed(Protocol):
    """A source of samples. All samples of a step's batch have one size."""

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get ready for these parts of step `first` and of each later one, in turn."""
        ...

    def shown(self, step: int, part: Part) -> Shown:
        """Return a part of a step's batch: a function of the step and of places in the global batch alone."""
        ...


@torch.no_grad()
def encoded(codec: DCAE, images: Tensor) -> Tensor:
    """Return scaled latents, B C h w float32, of images B 3 H W in [-1, 1], computed in the codec's dtype."""
    weight = next(codec.parameters())
    with torch.autocast(weight.device.type, enabled=False):
        latents = codec.encode(images.to(weight.device, weight.dtype))
        return latents.float().contiguous() * codec.config.scaling_factor


@torch.no_grad()
def decoded(codec: DCAE, latents: Tensor) -> Tensor:
    """Return images, B 3 H W float32 on the CPU, of scaled latents B C h w, decoded one by one."""
    weight = next(codec.parameters())
    scaled = (latents / codec.config.scaling_factor).to(weight.device, weight.dtype)
    return torch.cat([codec.decode(part).float().cpu() for part in scaled.split(1)])
