"""The video autoencoder of LTX-2, which SANA-Video at 720p uses: 32x smaller sides, 8 frames in a latent.

    latents = vae.encode(clip)  # B 3 T H W in [-1, 1], T = 1 + 8n  ->  B 128 1+n H/32 W/32
    for frames in vae.decode_stream(chunks):  # latents as they come -> their frames, at constant memory

Latents are the mode of what the encoder gives, as they are; a diffusion model sees `normalise(latents)`. No
latent depends on later frames. The published decoder looks ahead: a frame depends on 22 later latents
(`config.lookahead`), so a stream gives its first frames late, and a decoder trained causally at once.
Source: LTX-2 (Lightricks). State dict keys equal diffusers' AutoencoderKLLTX2Video.
Shapes: B clips, C latent channels, T frames, H W pixels, t h w latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError, SizeError
from sanakit.models.dc_ae import Halves
from sanakit.models.video.frame_rule import check_alike, check_clip_shape, check_latent_shape, chunk_sizes
from sanakit.models.video.ltx2_blocks import (
    ClipDownStage,
    ClipStage,
    ClipUpStage,
    FrameCache,
    FrameConv,
    patch,
    silu_of_norm,
    unpatch,
)
from sanakit.models.video.ltx2_config import LTX2_VAE, LTX23_VAE, STEPS, LTX2VAEConfig
from sanakit.models.video.ltx2_stream import FLOAT, ClipPart, ClipStream, stream_bytes, whole

__all__ = ["LTX2VAE", "LTX2_VAE", "LTX23_VAE", "LTX2Decoder", "LTX2Encoder", "LTX2VAEConfig"]


class LTX2VAE(nn.Module):
    """The autoencoder of clips; a clip of one frame is an image.

    part: "both", or the half to build; the other one is None then and costs no memory.
    """

    latents_mean: Tensor  # C, of the data's latents
    latents_std: Tensor

    def __init__(self, config: LTX2VAEConfig, part: Halves = "both") -> None:
        super().__init__()
        if part not in ("both", "encoder", "decoder"):
            raise SettingsError(f"part {part!r} is unknown: use 'both', 'encoder' or 'decoder'.")
        self.config = config
        self.encoder = LTX2Encoder(config) if part != "decoder" else None
        self.decoder = LTX2Decoder(config) if part != "encoder" else None
        self.register_buffer("latents_mean", torch.zeros(config.latent_channels, dtype=torch.float32))
        self.register_buffer("latents_std", torch.ones(config.latent_channels, dtype=torch.float32))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in; its big weights may be stored in another one (`layouts/fill.py`)."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.ndim == 1)

    def encode(self, clip: Tensor, chunk: int | None = None) -> Tensor:
        """Compress a clip (B 3 T H W in [-1, 1]) to the mode of its latents (B C t h w), not normalised.

        chunk: frames that are encoded at a time after the first frame, a multiple of 8; equal up to rounding,
        in less memory, no gradients. None: as many as fit in memory that does not grow with the clip, where
        gradients are off; else the whole at once.
        Raises SizeError for other shapes or another number of frames than 1 + 8n, SettingsError for such a
        chunk or if only the decoder was built.
        """
        encoder, channels = self.check_clip(clip), self.config.latent_channels
        self.config.frame_rule.check_chunk(chunk, latents=False)
        if chunk is None and torch.is_grad_enabled():
            return self.moments(clip)[:, :channels]
        stream = ClipStream(encoder.layers(), causal=self.config.encoder_causal)
        pieces = clip.split(chunk_sizes(clip.shape[2], chunk or clip.shape[2]), dim=2)
        done = [
            part for i, piece in enumerate(pieces) for part in _pushed(stream, piece, i + 1 == len(pieces))
        ]
        return torch.cat(done, dim=2)[:, :channels]

    def decode(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """Draw the clip (B 3 T H W, about [-1, 1], not cut off there) of latents (B C t h w), not normalised.

        chunk: latents that are decoded at a time after the first one; as for `encode`, as are errors. A
        decoder that pads by reflection needs at least 2 latents along each side.
        """
        decoder, rule = self.check_latents(latents), self.config.frame_rule
        rule.check_chunk(chunk, latents=True)
        if chunk is None and torch.is_grad_enabled():
            return self.draw(latents)
        stream = ClipStream(decoder.layers(), causal=self.config.decoder_causal)
        height, width = (side * self.config.compression for side in latents.shape[3:])
        clip, start = latents.new_empty(len(latents), 3, rule.frames(latents.shape[2]), height, width), 0
        pieces = latents.split(chunk_sizes(latents.shape[2], chunk or latents.shape[2]), dim=2)
        for i, piece in enumerate(pieces):
            for part in _pushed(stream, piece, i + 1 == len(pieces)):
                clip[:, :, start : start + part.shape[2]] = part
                start += part.shape[2]
        return clip

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the latents of a clip that comes in chunks: together what `encode` gives, at constant memory.

        chunks: B 3 T H W each; the first one of 1 + 8n frames, the others of 8n. Latents come with the chunk
        that completes them: at once, unless `config.encoder_causal` is off. Raises as `encode` does.
        """
        stream, shape, channels = None, None, self.config.latent_channels
        for clip in chunks:
            encoder = self.check_clip(clip, first=stream is None)
            check_alike(clip.shape, shape)
            if stream is None:
                stream, shape = ClipStream(encoder.layers(), causal=self.config.encoder_causal), clip.shape
            yield from (part[:, :channels] for part in _joined(_pushed(stream, clip, False)))
            last = clip
        if stream is not None and not self.config.encoder_causal:
            yield from (part[:, :channels] for part in _joined(_pushed(stream, last[:, :, :0], True)))

    @torch.no_grad()
    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the frames of latents that come in chunks: together what `decode` gives, at constant memory.

        chunks: B C t h w each, of any number of latents. Frames come with the chunk that completes them: at
        once from a causal decoder, else when `config.lookahead` later latents or the end have come. Raises
        as `decode` does.
        """
        stream, shape = None, None
        for latents in chunks:
            decoder = self.check_latents(latents)
            check_alike(latents.shape, shape)
            if stream is None:
                stream, shape = ClipStream(decoder.layers(), causal=self.config.decoder_causal), latents.shape
            yield from _joined(_pushed(stream, latents, False))
            last = latents
        if stream is not None and not self.config.decoder_causal:
            yield from _joined(_pushed(stream, last[:, :, :0], True))

    @torch.no_grad()
    def decode_next(self, latents: Tensor, past: object | None) -> tuple[Tensor, FrameCache]:
        """Draw the frames of a clip's next latents (B C t h w); return them, and the past of what follows.

        past: what the latents before returned, which stays as it is; None: there are none. Raises
        SettingsError for a decoder that looks ahead, SizeError for other sizes.
        """
        decoder = self.check_latents(latents)
        if not self.config.decoder_causal:
            raise SettingsError(
                f"This video autoencoder looks {self.config.lookahead} latents ahead, so it draws no frame "
                "before those come: load a causal one."
            )
        assert past is None or isinstance(past, FrameCache)
        stream = ClipStream(decoder.layers(), causal=True, past=past)
        return torch.cat(list(_pushed(stream, latents, False)), dim=2), stream.cache

    def decode_bytes(self, latents: int, height: int, width: int, chunk: int | None = None) -> int:
        """Estimate the memory of decoding as `VideoCodec.decode_bytes` says, in float32 on a CPU.

        Raises SettingsError if only the encoder was built.
        """
        config, decoder = self.config, self._built_decoder()
        frames, side = config.frame_rule.frames(latents), config.compression
        given = frames if chunk is None else min(frames, config.frame_rule.per_latent * chunk)
        stages: list[tuple[nn.Module, int]] = [(decoder.conv_in, side), (decoder.mid_block, side)]
        for block, step in zip(_stages(decoder.up_blocks), config.up_steps, strict=True):
            stages.append((block.get_submodule("upsamplers"), side))
            side //= STEPS[step][1]
            stages.append((block.resnets, side))
        stages.append((decoder.conv_out, side))
        size = (frames, height, width)
        return 3 * FLOAT * given * height * width + stream_bytes(stages, side, decoder.conv_out, *size)

    def encode_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimate the memory of encoding, as `decode_bytes` does.

        Raises SettingsError if only the decoder was built.
        """
        config, encoder = self.config, self._built_encoder()
        side = config.patch
        stages: list[tuple[nn.Module, int]] = [(encoder.conv_in, side)]
        for block, step in zip(_stages(encoder.down_blocks), config.steps, strict=True):
            stages.append((block, side))
            side *= STEPS[step][1]
        stages += [(encoder.mid_block, side), (encoder.conv_out, side)]
        size = (frames, height, width)
        return 3 * FLOAT * frames * height * width + stream_bytes(
            stages, config.patch, encoder.conv_in, *size
        )

    def moments(self, clip: Tensor) -> Tensor:
        """Return means and logarithms of variances (B 2C t h w) of a clip's latents, with gradients.

        All channels of a latent share one variance.
        """
        encoder, channels = self.check_clip(clip), self.config.latent_channels
        mean, variance = encoder(clip).split((channels, 1), dim=1)
        return torch.cat((mean, variance.expand_as(mean)), dim=1)

    def draw(self, latents: Tensor) -> Tensor:
        """Return the clip of latents, with gradients, the whole at once."""
        return self.check_latents(latents)(latents)

    def normalise(self, latents: Tensor) -> Tensor:
        """Return latents (B C t h w) as the diffusion model sees them: (latents - mean) / std per channel."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Return latents (B C t h w) of the diffusion model as `decode` takes them."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _statistics(self, latents: Tensor) -> Tensor:  # mean and deviation, 2 C 1 1 1
        both = torch.stack((self.latents_mean, self.latents_std))
        return both.to(latents.device, latents.dtype)[..., None, None, None]

    def check_clip(self, clip: Tensor, *, first: bool = True) -> LTX2Encoder:
        """Return the encoder of a clip B 3 T H W, or raise as `encode` does.

        first: it begins at the first frame; a later chunk has a multiple of 8 frames.
        """
        encoder = self._built_encoder()
        factor, shape = self.config.compression, clip.shape
        check_clip_shape(shape, factor, self.config.frame_rule, first=first)
        if self.config.encoder_padding == "reflect" and min(shape[3:]) < 2 * factor:
            raise SizeError(f"The clip has {shape[4]}x{shape[3]} pixels: use at least {2 * factor} a side.")
        return encoder

    def check_latents(self, latents: Tensor) -> LTX2Decoder:
        """Return the decoder of latents B C t h w, or raise as `decode` does."""
        decoder = self._built_decoder()
        shape = tuple(latents.shape)
        check_latent_shape(shape, self.config.latent_channels)
        if self.config.decoder_padding == "reflect" and min(shape[3:]) < 2:
            least = 2 * self.config.compression
            raise SizeError(
                f"The latents have shape {shape}, but this decoder needs 2 along each side: draw clips of at "
                f"least {least}x{least} pixels."
            )
        return decoder

    def _built_encoder(self) -> LTX2Encoder:
        if self.encoder is None:
            raise SettingsError(
                "This video autoencoder holds only its decoder: build it with part='both' to encode."
            )
        return self.encoder

    def _built_decoder(self) -> LTX2Decoder:
        if self.decoder is None:
            raise SettingsError(
                "This video autoencoder holds only its encoder: build it with part='both' to decode."
            )
        return self.decoder


class LTX2Encoder(nn.Module):
    """Clips to means of the latent channels and one logarithm of a variance: stages, then steps down."""

    def __init__(self, config: LTX2VAEConfig) -> None:
        super().__init__()
        padding, channels = config.encoder_padding, config.latent_channels
        self.patch, self.causal = config.patch, config.encoder_causal
        self.conv_in = FrameConv(3 * self.patch**2, channels, padding)
        came = (channels, *config.widths)
        self.down_blocks = nn.ModuleList(
            ClipDownStage(came[i], width, STEPS[config.steps[i]], config.depths[i], padding)
            for i, width in enumerate(config.widths)
        )
        self.mid_block = ClipStage(came[-1], config.depths[-1], padding)
        self.conv_out = FrameConv(came[-1], channels + 1, padding)

    def forward(self, clip: Tensor) -> Tensor:
        """Compress B 3 T H W to B C+1 t h w."""
        return _channels_first(whole(self.layers(), _channels_last(clip), causal=self.causal))

    def layers(self) -> list[ClipPart]:
        """Return the layers, from pixels B T H W 3 to latents B t h w C+1."""
        return [
            ClipPart(self._enter, max(3, -(-self.conv_in.conv.out_channels // self.patch**2))),
            *(ClipPart(stage, stage.width) for stage in _stages(self.down_blocks)),
            ClipPart(self.mid_block, self.mid_block.width),
            ClipPart(self._leave, self.mid_block.width),
        ]

    def _enter(self, clip: Tensor, cache: FrameCache) -> Tensor:
        return self.conv_in(cache.window(self.conv_in, patch(clip, self.patch)))

    def _leave(self, x: Tensor, cache: FrameCache) -> Tensor:
        return self.conv_out(cache.window(self.conv_out, silu_of_norm(x)))


class LTX2Decoder(nn.Module):
    """Latents to clips: residual blocks, then stages, each behind its step up."""

    def __init__(self, config: LTX2VAEConfig) -> None:
        super().__init__()
        padding, widths = config.decoder_padding, config.decoder_widths
        self.patch, self.causal = config.patch, config.decoder_causal
        self.conv_in = FrameConv(config.latent_channels, widths[0], padding)
        self.mid_block = ClipStage(widths[0], config.decoder_depths[0], padding)
        self.up_blocks = nn.ModuleList(
            ClipUpStage(
                width,
                STEPS[config.up_steps[i]],
                config.up_factors[i],
                config.decoder_depths[i + 1],
                padding,
                residual=config.up_residuals[i],
            )
            for i, width in enumerate(widths)
        )
        self.conv_out = FrameConv(config.final_width, 3 * self.patch**2, padding)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw B C t h w as B 3 T H W."""
        return _channels_first(whole(self.layers(), _channels_last(latents), causal=self.causal))

    def layers(self) -> list[ClipPart]:
        """Return the layers, from latents B t h w C to pixels B T H W 3."""
        return [
            ClipPart(self._enter, self.mid_block.width),
            ClipPart(self.mid_block, self.mid_block.width),
            *(ClipPart(stage, stage.width) for stage in _stages(self.up_blocks)),
            ClipPart(self._leave, max(self.conv_out.conv.in_channels, self.conv_out.conv.out_channels)),
        ]

    def _enter(self, latents: Tensor, cache: FrameCache) -> Tensor:
        return self.conv_in(cache.window(self.conv_in, latents))

    def _leave(self, x: Tensor, cache: FrameCache) -> Tensor:
        return unpatch(self.conv_out(cache.window(self.conv_out, silu_of_norm(x))), self.patch)


def _stages(blocks: nn.ModuleList) -> list[ClipStage]:
    return [block for block in blocks if isinstance(block, ClipStage)]


def _pushed(stream: ClipStream, chunk: Tensor, final: bool) -> Iterator[Tensor]:
    """Push a chunk B C T H W; yield what is complete in that order of axes."""
    return (_channels_first(part) for part in stream.push(_channels_last(chunk), final=final))


def _joined(parts: Iterator[Tensor]) -> list[Tensor]:
    """Join the parts B C T H W of one chunk, if there are any."""
    found = list(parts)
    return [torch.cat(found, dim=2)] if found else []


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)
