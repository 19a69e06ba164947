"""Feeds: sources of latents for part of a batch, or of images or clips to encode, with their captions.

Shapes: B samples of a part, C h w latents, H W pixels, L text tokens of a sample, E text width. Clips have
one more axis: C t h w latents, T H W pixels. An image's latents are times the scaling factor, those of a clip
normalised per channel: what the transformer sees. The first latent of a clip, [:, :, :1], is that of its
first frame alone, as autoencoders of clips are causal there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sanakit.data.cache.encode import latents_of
from sanakit.models.contracts import VideoCodec
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.train.parts import Part


@dataclass(frozen=True, slots=True, eq=False)
class Unencoded:
    """Images or clips that are encoded inside the loss: encoding does not count as waiting for data.

    images: B 3 H W in [-1, 1], on the codec's device; of an autoencoder of clips, B 3 T H W.
    """

    images: Tensor
    codec: DCAE | VideoCodec

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the latents' shape, B C h w; of clips, B C t h w."""
        config = self.codec.config
        height, width = (side // config.compression for side in self.images.shape[-2:])
        time = () if isinstance(config, DCAEConfig) else (config.frame_rule.latents(self.images.shape[2]),)
        return len(self.images), config.latent_channels, *time, height, width

    def encode(self) -> Tensor:
        """Return the latents as the transformer sees them."""
        return encoded(self.codec, self.images)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A part of a step's batch.

    latents: B C h w, scaled; of clips B C t h w, normalised. captions: B, "" where there is none. shares: B,
    what each sample counts in the loss of the global batch: one over its size, 0 where it is empty or broken;
    None: none is. features: of the captions, L E each, from a cache; empty: to be computed. fps: frames a
    second of clips; None: images. cameras: of clips along camera paths, B F 20: of each frame of pixels its
    pose row by row, then fx, fy, cx, cy in pixels; None: no path is known.
    """

    latents: Tensor | Unencoded
    captions: list[str]
    shares: Tensor | None = None
    features: Sequence[Tensor] = ()
    fps: float | None = None
    cameras: Tensor | None = None


class Feed(Protocol):
    """A source of samples. All samples of a step's batch have one size."""

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get ready for these parts of step `first` and of each later one, in turn."""
        ...

    def shown(self, step: int, part: Part) -> Shown:
        """Return a part of a step's batch: a function of the step and of places in the global batch alone."""
        ...


@torch.no_grad()
def encoded(codec: DCAE | VideoCodec, images: Tensor) -> Tensor:
    """Return scaled latents, B C h w float32, of images B 3 H W in [-1, 1], computed in the codec's dtype.

    Of clips B 3 T H W normalised latents, B C t h w, encoded one by one: a clip fills a device's memory.
    """
    weight = next(codec.parameters())
    with torch.autocast(weight.device.type, enabled=False):
        return latents_of(codec, images.to(weight.device, weight.dtype))


@torch.no_grad()
def decoded(codec: DCAE | VideoCodec, latents: Tensor) -> Tensor:
    """Return images, B 3 H W float32 on the CPU, of scaled latents B C h w, decoded one by one.

    Of normalised latents B C t h w clips, B 3 T H W.
    """
    weight = next(codec.parameters())
    if isinstance(codec, DCAE):
        own = (latents / codec.config.scaling_factor).to(weight.device, weight.dtype)
    else:
        own = codec.denormalise(latents.to(weight.device)).to(weight.dtype)
    return torch.cat([codec.decode(part).float().cpu() for part in own.split(1)])
