"""The interface that pipelines need of a transformer, a text model and an autoencoder, whichever they are.

Shapes: B samples, C latent channels, T frames, H W pixels, h w latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from sanakit.dialect import Dialect
from sanakit.errors import SettingsError, SizeError
from sanakit.models.sana import SanaConfig, TextContext


@dataclass(frozen=True, slots=True)
class LatentShape:
    """The size of one sample's latents; an image has one frame. Raises SizeError for a size below 1."""

    channels: int
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.channels, self.frames, self.height, self.width) < 1:
            raise SizeError(f"Latents of {self} are empty: every size must be at least 1.")

    @classmethod
    def image(cls, channels: int, height: int, width: int) -> LatentShape:
        """Return the shape of an image's latents."""
        return cls(channels, 1, height, width)

    @property
    def tokens(self) -> int:
        """How many tokens a transformer sees."""
        return self.frames * self.height * self.width

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the shape of one sample's tensor: C h w of an image, C T h w of a clip."""
        if self.frames == 1:
            return (self.channels, self.height, self.width)
        return (self.channels, self.frames, self.height, self.width)

    def noise(self, seed: int) -> tuple[Tensor, Generator]:
        """Standard normal noise of a seed, float32, alike for every device; and what draws the next noise."""
        generator = Generator("cpu").manual_seed(seed)
        return torch.randn(*self.dims, generator=generator, device="cpu", dtype=torch.float32), generator

    def check(self, latents: Tensor, samples: int) -> None:
        """Raise SettingsError unless a caller's latents are finite and of that many samples."""
        shape = (samples, *self.dims)
        fits = isinstance(latents, Tensor) and latents.is_floating_point() and tuple(latents.shape) == shape
        if not fits or not bool(torch.isfinite(latents).all()):
            came = f"{latents.dtype} {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents)
            raise SettingsError(f"latents are {came}, but they must be finite floats of the shape {shape}.")


class VelocityModel(Protocol):
    """A transformer that predicts velocities for prepared prompts."""

    config: SanaConfig

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        ...

    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Compute all that depends on the prompts alone, once for all steps. features: L E each, unpadded.

        eps: of the norms of cross-attention's keys and queries; None: their own.
        """
        ...

    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        """Return the velocity of latents B C h w at t in [0, 1], one time or one for each sample."""
        ...


class TextModel(Protocol):
    """Turns prompts into features, L E each, unpadded."""

    def encode(
        self, prompts: Sequence[str], notes: list[str] | None = None, dialect: Dialect | None = None
    ) -> list[Tensor]:
        """Return the features of positive prompts. notes: takes a sentence about each prompt that was cut."""
        ...

    def encode_negative(
        self, prompts: Sequence[str], notes: list[str] | None = None, dialect: Dialect | None = None
    ) -> list[Tensor]:
        """Return the features of negative prompts."""
        ...


class CodecConfig(Protocol):
    """The shape and scale of a codec's latents."""

    @property
    def compression(self) -> int:
        """Pixels of a latent, along one side."""
        ...

    @property
    def scaling_factor(self) -> float:
        """The factor on latents for the transformer."""
        ...


class Codec(Protocol):
    """An autoencoder between images and unscaled latents."""

    @property
    def config(self) -> CodecConfig:
        """The shape and scale of its latents."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Return latents of images in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images of latents."""
        ...
