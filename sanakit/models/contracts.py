"""The interface that pipelines need of a transformer, a text model and an autoencoder, whichever they are.

Shapes: B samples, C latent channels, T frames, H W pixels, h w latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from sanakit.dialect import Dialect
from sanakit.errors import SettingsError, SizeError
from sanakit.models.sana import TextContext
from sanakit.models.video.frame_rule import FrameRule


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


class ModelPart(Protocol):
    """A module of a model, to be weighed, moved to a device and taken out of memory: any nn.Module."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights; an external runtime's part has one empty weight, which tells the device."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """Yield the other tensors."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Yield the modules inside, among them the graphs of external runtimes."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return all that a file of it holds, by name."""
        ...

    def to(self, device: torch.device, /) -> object:
        """Move it to a device."""
        ...


class SampledBlock(ModelPart, Protocol):
    """One of a transformer's blocks: the unit that is compiled, and that a lean plan holds alone."""

    sample: Callable[..., Tensor]  # tokens, and what the transformer has for it, to tokens


class TransformerConfig(Protocol):
    """The sizes of a transformer that drawing depends on."""

    @property
    def latent_channels(self) -> int:
        """C."""
        ...

    @property
    def sample_size(self) -> int:
        """The side in latents that it was trained at."""
        ...

    @property
    def text_width(self) -> int:
        """E."""
        ...

    @property
    def width(self) -> int:
        """The width of a token."""
        ...

    @property
    def depth(self) -> int:
        """The number of blocks."""
        ...

    @property
    def mlp_ratio(self) -> float:
        """The width of a token inside the feed-forward, over its own."""
        ...

    @property
    def guidance_embed(self) -> bool:
        """Whether the guidance scale is an input, as for SANA-Sprint."""
        ...

    @property
    def time_scale(self) -> float:
        """The factor on t in [0, 1] before it is embedded."""
        ...


class BlockModel(ModelPart, Protocol):
    """A transformer made of blocks, whatever it is asked for."""

    @property
    def config(self) -> TransformerConfig:
        """Its sizes."""
        ...

    @property
    def blocks(self) -> Iterable[SampledBlock]:
        """Its blocks, in the order in which they work."""
        ...


class VelocityModel(BlockModel, Protocol):
    """A transformer that predicts velocities for prepared prompts."""

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


class LanguageModel(ModelPart, Protocol):
    """The network of a text model."""

    @property
    def embed_tokens(self) -> ModelPart:
        """The embedding, of which the rows of a prompt's tokens are read, never all of it."""
        ...

    @property
    def layers(self) -> Iterable[ModelPart]:
        """The layers behind it, which work one after the other."""
        ...


class TextModel(Protocol):
    """Turns prompts into features, L E each, unpadded."""

    after_layer: Callable[[nn.Module], object] | None  # called with each layer when it has run

    @property
    def model(self) -> LanguageModel:
        """The part of it that has weights."""
        ...

    def told(self, prompts: Sequence[str], dialect: Dialect | None = None) -> list[str]:
        """Return what `encode` would tell of positive prompts, without encoding them."""
        ...

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
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def scaling_factor(self) -> float:
        """The factor on latents for the transformer."""
        ...

    def default_band(self, height: int, width: int, batch: int = 1) -> float:
        """Return the latent rows at a time that decode an image of height x width px fastest on a CPU."""
        ...

    def decode_bytes(self, height: int, width: int, band: float, batch: int = 1) -> int:
        """Estimate what decoding an image of height x width px takes above the weights, in bytes."""
        ...


class Codec(ModelPart, Protocol):
    """An autoencoder between images and unscaled latents."""

    @property
    def config(self) -> CodecConfig:
        """The shape and scale of its latents."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in."""
        ...

    @property
    def encoder(self) -> ModelPart | None:
        """The half that encodes; None where it was not loaded."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Return latents of images in [-1, 1]."""
        ...

    def decode_rows(self, latents: Tensor, band: float | None = None) -> Iterator[Tensor]:
        """Yield the rows of images of latents from the top, B 3 h W.

        band: latent rows that are decoded at a time, a hint: a codec without bands yields the whole.
        """
        ...


class VideoCodecConfig(Protocol):
    """The shape of a video codec's latents."""

    @property
    def compression(self) -> int:
        """Pixels of a latent, along one side."""
        ...

    @property
    def frame_rule(self) -> FrameRule:
        """How many frames a clip may have, and how many latents along time they are."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def lookahead(self) -> int:
        """How many later latents a frame depends on; 0: it can be decoded at once."""
        ...


class VideoCodec(ModelPart, Protocol):
    """An autoencoder between clips (B 3 T H W in [-1, 1]) and latents (B C t h w), not normalised."""

    @property
    def config(self) -> VideoCodecConfig:
        """The shape of its latents."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in."""
        ...

    @property
    def encoder(self) -> ModelPart | None:
        """The half that encodes; None where it was not loaded."""
        ...

    def encode(self, clip: Tensor, chunk: int | None = None) -> Tensor:
        """Return the mode of a clip's latents. chunk: frames at a time after the first, a hint."""
        ...

    def decode(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """Return the clip of latents. chunk: latents at a time after the first, a hint."""
        ...

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the latents of a clip that comes in chunks of frames, as soon as they are complete."""
        ...

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the frames of latents that come in chunks along time, as soon as they are complete."""
        ...

    def decode_next(self, latents: Tensor, past: object | None) -> tuple[Tensor, object]:
        """Return the frames of a clip's next latents, B 3 T H W, and the past with them.

        past: what the latents before returned, of which nothing changes: keep it to come back to it. None:
        there are none.
        """
        ...

    def decode_bytes(self, latents: int, height: int, width: int, chunk: int | None = None) -> int:
        """Estimate what decoding one clip takes above the weights, in bytes: its frames and the work.

        latents: along time. height, width: of a frame, in pixels. chunk: latents at a time by
        `decode_stream`, whose frames are given on at once; None: by `decode`.
        """
        ...

    def encode_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimate what encoding one clip takes above the weights, in bytes: its frames and the work."""
        ...

    def normalise(self, latents: Tensor) -> Tensor:
        """Return latents as the transformer sees them."""
        ...

    def denormalise(self, latents: Tensor) -> Tensor:
        """Return the transformer's latents as `decode` takes them."""
        ...
