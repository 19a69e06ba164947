"""The video autoencoder of Wan 2.1, which SANA-Video at 480p uses: 8x smaller sides, 4 frames in a latent.

    latents = vae.encode(clip)  # B 3 T H W in [-1, 1], T = 1 + 4n  ->  B 16 1+n H/8 W/8
    for frames in vae.decode_stream(chunks):  # latents as they come -> their frames, at constant memory

Latents are the mode of what the encoder gives, as they are; a diffusion model sees `normalise(latents)`.
Source: Wan 2.1 (arXiv:2503.20314, Apache-2.0). State dict keys equal diffusers' AutoencoderKLWan.
Shapes: B clips, C latent channels, T frames, H W pixels, t h w latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.dc_ae import Halves
from sanakit.models.video import wan_stream
from sanakit.models.video.frame_rule import check_clip_shape, check_latent_shape
from sanakit.models.video.wan_blocks import (
    CausalConv,
    CausalResBlock,
    ClipDown,
    ClipNorm,
    ClipUp,
    MidBlock,
)
from sanakit.models.video.wan_config import WAN_VAE, WanVAEConfig

__all__ = ["WAN_VAE", "WanDecoder", "WanEncoder", "WanVAE", "WanVAEConfig"]


class WanVAE(nn.Module):
    """The autoencoder of clips; a clip of one frame is an image.

    part: "both", or the half to build; the other one is None then and costs no memory.
    """

    quant_conv: CausalConv  # behind the encoder
    post_quant_conv: CausalConv  # before the decoder

    def __init__(self, config: WanVAEConfig, part: Halves = "both") -> None:
        super().__init__()
        if part not in ("both", "encoder", "decoder"):
            raise SettingsError(f"part {part!r} is unknown: use 'both', 'encoder' or 'decoder'.")
        self.config = config
        channels = config.latent_channels
        self.encoder = WanEncoder(config) if part != "decoder" else None
        self.decoder = WanDecoder(config) if part != "encoder" else None
        if self.encoder is not None:
            self.quant_conv = CausalConv(2 * channels, 2 * channels, 1, 1)
        if self.decoder is not None:
            self.post_quant_conv = CausalConv(channels, channels, 1, 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in; its big weights may be stored in another one (`layouts/fill.py`)."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.ndim == 1)

    def encode(self, clip: Tensor, chunk: int | None = None) -> Tensor:
        """Compress a clip (B 3 T H W in [-1, 1]) to the mode of its latents (B C t h w), not normalised.

        chunk: frames that are encoded at a time after the first frame, a multiple of 4; equal up to rounding,
        in less memory, no gradients. None: a fitting number where gradients are off; else the whole at once.
        Raises SizeError for other shapes or another number of frames than 1 + 4n, SettingsError for such a
        chunk or if only the decoder was built.
        """
        if chunk is None and torch.is_grad_enabled():
            return self.moments(clip).chunk(2, dim=1)[0]
        return wan_stream.encode(self, clip, chunk)

    def decode(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """Draw the clip (B 3 T H W in [-1, 1]) of latents (B C t h w), not normalised.

        chunk: latents that are decoded at a time after the first one; as for `encode`, as are errors.
        """
        if chunk is None and torch.is_grad_enabled():
            return self.draw(latents).clamp(-1, 1)
        return wan_stream.decode(self, latents, chunk)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the latents of each chunk of a clip: what `encode` gives for all of it, at constant memory.

        chunks: B 3 T H W each; the first one of 1 + 4n frames, the others of 4n. Raises as `encode` does.
        """
        return wan_stream.encode_stream(self, chunks)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the frames of each chunk of latents: what `decode` gives for all of them, at constant memory.

        chunks: B C t h w each, of any number of latents. Raises as `decode` does.
        """
        return wan_stream.decode_stream(self, chunks)

    def decode_next(self, latents: Tensor, past: object | None) -> tuple[Tensor, list[Tensor | None]]:
        """Draw the frames of a clip's next latents (B C t h w); return them, and the past of what follows.

        past: what the latents before returned, which stays as it is; None: there are none. Raises as
        `decode` does.
        """
        assert past is None or isinstance(past, list)
        return wan_stream.decode_next(self, latents, past)

    def decode_bytes(self, latents: int, height: int, width: int, chunk: int | None = None) -> int:
        """Estimate the memory of decoding as `VideoCodec.decode_bytes` says, in float32 on a CPU."""
        return wan_stream.decode_bytes(self.config, latents, height, width, chunk)

    def encode_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimate the memory of encoding, as `decode_bytes` does."""
        return wan_stream.encode_bytes(self.config, frames, height, width)

    def moments(self, clip: Tensor) -> Tensor:
        """Return means and logarithms of variances (B 2C t h w) of a clip's latents, with gradients."""
        encoder = self.check_clip(clip)
        return self.quant_conv(encoder(clip))

    def draw(self, latents: Tensor) -> Tensor:
        """Return the clip of latents before its values are cut off at -1 and 1, with gradients."""
        decoder = self.check_latents(latents)
        return decoder(self.post_quant_conv(latents))

    def normalise(self, latents: Tensor) -> Tensor:
        """Return latents (B C t h w) as the diffusion model sees them: (latents - mean) / std per channel."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Return latents (B C t h w) of the diffusion model as `decode` takes them."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _statistics(self, latents: Tensor) -> Tensor:  # mean and deviation, 2 C 1 1 1
        config, channels = self.config, self.config.latent_channels
        if {len(config.latents_mean), len(config.latents_std)} != {channels}:
            raise SettingsError(
                f"The autoencoder's config.json has {len(config.latents_mean)} means and "
                f"{len(config.latents_std)} deviations for {channels} latent channels: state one per channel."
            )
        both = torch.tensor([config.latents_mean, config.latents_std], dtype=torch.float64)
        return both.to(latents.device, latents.dtype)[..., None, None, None]

    def check_clip(self, clip: Tensor, *, first: bool = True) -> WanEncoder:
        """Return the encoder of a clip B 3 T H W, or raise as `encode` does.

        first: it begins at the first frame; a later chunk has a multiple of 4 frames.
        """
        if self.encoder is None:
            raise SettingsError(
                "This video autoencoder holds only its decoder: build it with part='both' to encode."
            )
        check_clip_shape(clip.shape, self.config.compression, self.config.frame_rule, first=first)
        return self.encoder

    def check_latents(self, latents: Tensor) -> WanDecoder:
        """Return the decoder of latents B C t h w, or raise as `decode` does."""
        if self.decoder is None:
            raise SettingsError(
                "This video autoencoder holds only its encoder: build it with part='both' to decode."
            )
        check_latent_shape(latents.shape, self.config.latent_channels)
        return self.decoder


class WanEncoder(nn.Module):
    """Clips to two values per latent channel: blocks of each stage, then a step down."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv(3, config.width)
        self.down_blocks = nn.ModuleList()
        came = config.width
        for i, width in enumerate(widths):
            self.down_blocks.extend(CausalResBlock(w, width) for w in (came, *[width] * (config.depth - 1)))
            if i < len(config.halve_time):
                self.down_blocks.append(ClipDown(width, time=config.halve_time[i]))
            came = width
        self.mid_block = MidBlock(came)
        self.norm_out = ClipNorm(came)
        self.conv_out = CausalConv(came, 2 * config.latent_channels)

    def forward(self, clip: Tensor) -> Tensor:
        """Compress B 3 T H W to B 2C t h w."""
        x = self.conv_in(clip)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class WanDecoder(nn.Module):
    """Latents to clips: blocks of each stage, then a step up, which halves the channels."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = CausalConv(config.latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0])
        self.up_blocks = nn.ModuleList()
        came = widths[0]
        for i, width in enumerate(widths):
            step = ClipUp(width, time=config.halve_time[-1 - i]) if i < len(config.halve_time) else None
            self.up_blocks.append(UpStage(came, width, config.depth + 1, step))
            came = width // 2
        self.norm_out = ClipNorm(widths[-1])
        self.conv_out = CausalConv(widths[-1], 3)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw B C t h w as B 3 T H W."""
        x = self.mid_block(self.conv_in(latents))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class UpStage(nn.Module):
    """One resolution of the decoder: residual blocks, and the step to the next finer one but for the last."""

    def __init__(self, width: int, out_width: int, depth: int, step: ClipUp | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            CausalResBlock(w, out_width) for w in (width, *[out_width] * (depth - 1))
        )
        self.upsamplers = nn.ModuleList([] if step is None else [step])

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W to B K T' 2H 2W, or to B K T H W."""
        for block in (*self.resnets, *self.upsamplers):
            x = block(x)
        return x
