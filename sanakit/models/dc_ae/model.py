"""DC-AE, the deep compression autoencoder of SANA: 32x smaller latents, no sampling (arXiv:2410.10733).

Each down (up) step has a shortcut without parameters: space to channels, averaged (repeated, back to space).
Deep stages of the published sizes are EfficientViT blocks (`blocks.py`), the others convolutions.
State dict keys equal diffusers' AutoencoderDC. Source: the paper and mit-han-lab/efficientvit (Apache-2.0).
Shapes: B batch, C channels, H W grid. Modules map B C H W; in memory channels lie last, so that norms and
attention read B H W C without a copy. Weights in torch.channels_last save more copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError, SizeError
from sanakit.models.dc_ae import stream
from sanakit.models.dc_ae.blocks import (
    ACTIVATIONS,
    NORMS,
    ChannelRMSNorm,
    DownStep,
    StageConfig,
    UpStep,
    add_repeated_channels,
    make_block,
)

Halves = Literal["both", "encoder", "decoder"]
_BLOCKS = ("ResBlock", "EfficientViTBlock")  # diffusers' names: without and with attention
_KEPT = ("latent_channels", "encoder_out_shortcut", "decoder_in_shortcut", "scaling_factor")
_MOVED = {"image_channels": "in_channels", "head_dim": "attention_head_dim", "out_act": "decoder_conv_act_fn"}
_IN_DIFFUSERS = {name: name for name in _KEPT} | _MOVED  # our field: key of equal meaning and default


@dataclass(frozen=True, kw_only=True, slots=True)
class DCAEConfig:
    """Sizes of one DC-AE; stages run from the finest (image) to the coarsest (latent) in both halves.

    A first stage of depth 0 has no blocks: conv_in (conv_out) then halves (doubles) the size itself.
    Raises SettingsError if the stages do not fit together.
    """

    encoder: tuple[StageConfig, ...]
    decoder: tuple[StageConfig, ...]
    image_channels: int = 3
    latent_channels: int = 32
    head_dim: int = 32
    strided_down: bool = False  # False: conv then pixel unshuffle; True: conv of stride 2
    interpolate_up: bool = False  # False: conv then pixel shuffle; True: nearest neighbour then conv
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    out_act: str = "relu"
    scaling_factor: float = 1.0  # the diffusion model sees latents * scaling_factor (about unit variance)
    default_band, decode_bytes = stream.default_band, stream.decode_bytes  # methods

    @property
    def compression(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.encoder) - 1)

    def __post_init__(self) -> None:
        halves = [len(self.encoder), len(self.decoder)]
        if halves[0] != halves[1] or halves[0] < 2:
            raise SettingsError(f"DC-AE has {halves} stages: both halves need the same number, at least 2.")
        if any((s.norm, s.act) != ("rms_norm", "silu") for s in self.encoder):
            raise SettingsError("DC-AE encoder stages take 'rms_norm' and 'silu' only: leave both out.")
        if unknown := {self.out_act, *(s.act for s in self.decoder)} - set(ACTIVATIONS):
            raise SettingsError(f"Activations {sorted(unknown)} are unknown: use {sorted(ACTIVATIONS)}.")
        if unknown := {s.norm for s in self.decoder} - set(NORMS):
            raise SettingsError(f"Norms {sorted(unknown)} are unknown: use {list(NORMS)}.")
        for stages in (self.encoder, self.decoder):
            self._check_sizes(stages)

    def _check_sizes(self, stages: tuple[StageConfig, ...]) -> None:
        depths = [s.depth for s in stages]
        widths = [s.width for s in (stages if depths[0] else stages[1:])]
        if min(depths) < 0 or 0 in depths[1:-1]:
            raise SettingsError(f"DC-AE depths {depths}: only the first and last stage may have depth 0.")
        if any(4 * fine % coarse or coarse % fine or fine % 4 for fine, coarse in pairwise(widths)):
            raise SettingsError(
                f"DC-AE widths {widths}: use multiples of 4 that grow by 1, 2 or 4 per stage."
            )
        if widths[-1] % self.latent_channels:
            raise SettingsError(
                f"DC-AE widths {widths}: the last must be a multiple of latent {self.latent_channels}."
            )
        if any(s.width % self.head_dim for s in stages if s.attention is not None):
            raise SettingsError(f"DC-AE widths {widths}: attention needs a multiple of {self.head_dim}.")

    @classmethod
    def from_diffusers(cls, config: dict[str, Any]) -> DCAEConfig:
        """Read the config.json of an AutoencoderDC; SettingsError for parts that no published one uses."""
        return cls(
            encoder=_stages_from_diffusers(config, "encoder", (2, 2, 2, 3, 3, 3)),
            decoder=_stages_from_diffusers(config, "decoder", (3, 3, 3, 3, 3, 3)),
            strided_down=config.get("downsample_block_type", "pixel_unshuffle") != "pixel_unshuffle",
            interpolate_up=config.get("upsample_block_type") == "interpolate",
            **{ours: config[theirs] for ours, theirs in _IN_DIFFUSERS.items() if theirs in config},
        )

    def to_diffusers(self) -> dict[str, Any]:
        """Write the config.json of a diffusers AutoencoderDC: a `vae` folder's."""
        config: dict[str, Any] = {"_class_name": "AutoencoderDC"}
        config |= {theirs: getattr(self, ours) for ours, theirs in _IN_DIFFUSERS.items()}
        config["downsample_block_type"] = "Conv" if self.strided_down else "pixel_unshuffle"
        config["upsample_block_type"] = "interpolate" if self.interpolate_up else "pixel_shuffle"
        config["decoder_norm_types"] = [s.norm for s in self.decoder]
        config["decoder_act_fns"] = [s.act for s in self.decoder]
        for half, stages in (("encoder", self.encoder), ("decoder", self.decoder)):
            config[f"{half}_block_types"] = [_BLOCKS[s.attention is not None] for s in stages]
            config[f"{half}_block_out_channels"] = [s.width for s in stages]
            config[f"{half}_layers_per_block"] = [s.depth for s in stages]
            config[f"{half}_qkv_multiscales"] = [list(s.attention or ()) for s in stages]
        return config


def _stages_from_diffusers(
    config: dict[str, Any], half: str, depths: tuple[int, ...]
) -> tuple[StageConfig, ...]:
    widths = config.get(f"{half}_block_out_channels", (128, 256, 512, 512, 1024, 1024))

    def per_stage(key: str, default: str) -> Sequence[str]:
        value = config.get(f"{half}_{key}", default)
        return (value,) * len(widths) if isinstance(value, str) else value

    blocks = per_stage("block_types", "ResBlock")
    if unknown := set(blocks) - set(_BLOCKS):
        raise SettingsError(f"DC-AE blocks {sorted(unknown)} are unknown: use {list(_BLOCKS)}.")
    scales = config.get(f"{half}_qkv_multiscales", ((), (), (), (5,), (5,), (5,)))
    attention = [None if b == _BLOCKS[0] else tuple(s) for b, s in zip(blocks, scales, strict=True)]
    norms, acts = per_stage("norm_types", "rms_norm"), per_stage("act_fns", "silu")
    rows = zip(widths, config.get(f"{half}_layers_per_block", depths), attention, norms, acts, strict=True)
    return tuple(StageConfig(w, d, a, norm=norm, act=act) for w, d, a, norm, act in rows)


_SANA_DEEP = (StageConfig(512, 3, (5,)), StageConfig(1024, 3, (5,)), StageConfig(1024, 3, (5,)))
DC_AE_F32C32_SANA = DCAEConfig(  # sana-1.0 and sana-1.1 differ in weights only
    encoder=(StageConfig(128, 2), StageConfig(256, 2), StageConfig(512, 2), *_SANA_DEEP),
    decoder=(StageConfig(128, 3), StageConfig(256, 3), StageConfig(512, 3), *_SANA_DEEP),
    strided_down=True,
    interpolate_up=True,
    scaling_factor=0.41407,
)

DC_AE_LITE = replace(  # dc-ae-lite-f32c32-sana-1.1: the same encoder, a decoder of convolutions only
    DC_AE_F32C32_SANA,
    decoder=(
        StageConfig(128, 0),
        StageConfig(256, 3),
        StageConfig(512, 5),
        StageConfig(512, 4),
        StageConfig(1024, 4),
        StageConfig(1024, 4),
    ),
    interpolate_up=False,
    out_act="silu",
)

DC_AE_POCKET = DCAEConfig(  # ours: trained by the repository's own recipe
    encoder=(
        StageConfig(8, 0),
        StageConfig(16, 1),
        StageConfig(32, 1),
        StageConfig(64, 1),
        StageConfig(128, 1),
        StageConfig(256, 1),
    ),
    decoder=(
        StageConfig(16, 0),
        StageConfig(32, 1),
        StageConfig(64, 1),
        StageConfig(128, 2),
        StageConfig(256, 2),
        StageConfig(256, 2),
    ),
)


class DCAE(nn.Module):
    """The autoencoder: images B 3 H W in [-1, 1] to latents B C H/32 W/32 and back.

    part: "both", or the half to build; the other one is None then and costs no memory.
    Latents are unscaled: multiply by config.scaling_factor before diffusion, divide before decode.
    """

    def __init__(self, config: DCAEConfig, part: Halves = "both") -> None:
        super().__init__()
        if part not in ("both", "encoder", "decoder"):
            raise SettingsError(f"part {part!r} is unknown: use 'both', 'encoder' or 'decoder'.")
        self.config = config
        self.encoder = Encoder(config) if part != "decoder" else None
        self.decoder = Decoder(config) if part != "encoder" else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in; its big weights may be stored in another one (`layouts/fill.py`)."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.ndim == 1)

    def encode(self, images: Tensor, band: float | None = None) -> Tensor:
        """Compress images (B 3 H W in [-1, 1]) to unscaled latents (B C H/f W/f, f = config.compression).

        band: latent rows handled at a time, at most H/f; see `decode`.
        Raises SizeError if H or W is not a multiple of f, SettingsError if only the decoder was built.
        """
        if band is None and not stream.streams(self, images):
            return self.check_images(images)(images)
        return stream.encode(self, images, band)

    def decode(self, latents: Tensor, band: float | None = None) -> Tensor:
        """Draw images (B 3 f*H f*W, about [-1, 1], not clamped) from unscaled latents (B C H W).

        band: latent rows handled at a time, at most H: equal up to rounding, in less memory, no gradients.
        None: a small band for float32 on a CPU in eval mode where gradients are off; else the whole at once.
        Raises SizeError for other shapes, SettingsError for such a band or if only the encoder was built.
        """
        if band is None and not stream.streams(self, latents):
            return self.check_latents(latents)(latents)
        return stream.decode(self, latents, band)

    decode_rows = stream.decode_rows

    def check_images(self, images: Tensor) -> Encoder:
        """Return the encoder of images B 3 H W, or raise as `encode` does."""
        if self.encoder is None:
            raise SettingsError("This DC-AE holds only its decoder: build it with part='both' to encode.")
        factor, channels = self.config.compression, self.config.image_channels
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != channels or 0 in shape or any(side % factor for side in shape[2:]):
            rule = f"B {channels} H W, with H and W multiples of {factor}; crop or pad"
            raise SizeError(f"images have shape {shape}, but must have {rule}.")
        return self.encoder

    def check_latents(self, latents: Tensor) -> Decoder:
        """Return the decoder of latents B C H W, or raise as `decode` does."""
        if self.decoder is None:
            raise SettingsError("This DC-AE holds only its encoder: build it with part='both' to decode.")
        channels = self.config.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels or 0 in latents.shape:
            raise SizeError(f"latents have shape {tuple(latents.shape)}, but must have B {channels} H W.")
        return self.decoder


class Encoder(nn.Module):
    """Images to latents; blocks of each stage, then a step down; a last shortcut averages channels."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        stages = config.encoder
        down = partial(DownStep, strided=config.strided_down)
        first = (config.image_channels, stages[0].width if stages[0].depth else stages[1].width)
        self.conv_in: nn.Module = (
            nn.Conv2d(*first, 3, padding=1) if stages[0].depth else down(*first, shortcut=False)
        )
        self.down_blocks = nn.ModuleList()
        for i, stage in enumerate(stages):
            layers = [make_block(stage, config.head_dim) for _ in range(stage.depth)]
            if layers and i + 1 < len(stages):
                layers.append(down(stage.width, stages[i + 1].width))
            self.down_blocks.append(nn.Sequential(*layers))
        self.conv_out = nn.Conv2d(stages[-1].width, config.latent_channels, 3, padding=1)
        self.out_shortcut = config.encoder_out_shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Compress B 3 H W to B C H/f W/f."""
        x = self.conv_in(images.contiguous(memory_format=torch.channels_last))
        for stage in self.down_blocks:
            x = stage(x)
        latents = self.conv_out(x)
        return latents + x.unflatten(1, (latents.shape[1], -1)).mean(2) if self.out_shortcut else latents


class Decoder(nn.Module):
    """Latents to images; a step up, then the blocks of each stage, from the coarsest to the finest."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        stages = config.decoder
        up = partial(UpStep, interpolate=config.interpolate_up)
        self.conv_in = nn.Conv2d(config.latent_channels, stages[-1].width, 3, padding=1)
        self.in_shortcut = config.decoder_in_shortcut
        self.up_blocks = nn.ModuleList()
        for i, stage in enumerate(stages):
            layers = [make_block(stage, config.head_dim) for _ in range(stage.depth)]
            if layers and i + 1 < len(stages):
                layers.insert(0, up(stages[i + 1].width, stage.width))
            self.up_blocks.append(nn.Sequential(*layers))
        last = (stages[0].width if stages[0].depth else stages[1].width, config.image_channels)
        self.norm_out = ChannelRMSNorm(last[0])
        self.out_act = ACTIVATIONS[config.out_act]
        self.conv_out: nn.Module = (
            nn.Conv2d(*last, 3, padding=1) if stages[0].depth else up(*last, shortcut=False)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Draw B C H W as B 3 f*H f*W."""
        latents = latents.contiguous(memory_format=torch.channels_last)
        x = self.conv_in(latents)
        if self.in_shortcut:
            x = add_repeated_channels(x, latents)
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return self.conv_out(self.out_act(self.norm_out(x)))
