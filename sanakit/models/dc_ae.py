"""DC-AE, the deep compression autoencoder of SANA: 32x smaller latents, no sampling (arXiv:2410.10733).

Each down (up) step has a shortcut without parameters: space to channels, averaged (repeated, back to space).
Deep stages of the published sizes are EfficientViT blocks: ReLU linear attention, then a gated conv MLP.
State dict keys equal diffusers' AutoencoderDC. Source: the paper and mit-han-lab/efficientvit (Apache-2.0).
Shapes: B batch, C channels, H W grid, N = H*W, G heads, d head width. Modules map B C H W; in memory channels
lie last, so norms and attention read B H W C without a copy. Weights in torch.channels_last save more copies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError, SizeError

Part = Literal["both", "encoder", "decoder"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": F.relu}
_NORMS = ("rms_norm", "batch_norm")
_BLOCKS = ("ResBlock", "EfficientViTBlock")  # diffusers' names: without and with attention
_ATTENTION_EPS = 1e-15  # only guards 0/0: a query that ReLU silenced
_KEPT = ("latent_channels", "encoder_out_shortcut", "decoder_in_shortcut", "scaling_factor")
_MOVED = {"image_channels": "in_channels", "head_dim": "attention_head_dim", "out_act": "decoder_conv_act_fn"}
_IN_DIFFUSERS = {name: name for name in _KEPT} | _MOVED  # our field: key of equal meaning and default


@dataclass(frozen=True, slots=True)
class Stage:
    """One resolution of the encoder or decoder: `depth` blocks of `width` channels.

    attention: None = residual conv blocks; a tuple = EfficientViT blocks, where each odd kernel size (grid
    cells) adds a branch of heads whose queries, keys and values come from such a depthwise neighbourhood.
    norm, act: "rms_norm" | "batch_norm" and "silu" | "relu"; the encoder knows only the first of each.
    """

    width: int
    depth: int
    attention: tuple[int, ...] | None = None
    norm: str = field(default="rms_norm", kw_only=True)
    act: str = field(default="silu", kw_only=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class DCAEConfig:
    """Sizes of one DC-AE; stages run from the finest (image) to the coarsest (latent) in both halves.

    A first stage of depth 0 has no blocks: conv_in (conv_out) then halves (doubles) the size itself.
    Raises SettingsError if the stages do not fit together.
    """

    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    image_channels: int = 3
    latent_channels: int = 32
    head_dim: int = 32
    strided_down: bool = False  # False: conv then pixel unshuffle; True: conv of stride 2
    interpolate_up: bool = False  # False: conv then pixel shuffle; True: nearest neighbour then conv
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    out_act: str = "relu"
    scaling_factor: float = 1.0  # the diffusion model sees latents * scaling_factor (about unit variance)

    @property
    def compression(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.encoder) - 1)

    def __post_init__(self) -> None:
        halves = [len(self.encoder), len(self.decoder)]
        if halves[0] != halves[1] or halves[0] < 2:
            raise SettingsError(f"DC-AE got {halves} stages: give both halves the same number, at least 2.")
        if any((s.norm, s.act) != ("rms_norm", "silu") for s in self.encoder):
            raise SettingsError("DC-AE encoder stages take 'rms_norm' and 'silu' only: leave both out.")
        if unknown := {self.out_act, *(s.act for s in self.decoder)} - set(_ACTIVATIONS):
            raise SettingsError(f"Activations {sorted(unknown)} are unknown: use {sorted(_ACTIVATIONS)}.")
        if unknown := {s.norm for s in self.decoder} - set(_NORMS):
            raise SettingsError(f"Norms {sorted(unknown)} are unknown: use {list(_NORMS)}.")
        for stages in (self.encoder, self.decoder):
            self._check_sizes(stages)

    def _check_sizes(self, stages: tuple[Stage, ...]) -> None:
        depths = [s.depth for s in stages]
        widths = [s.width for s in (stages if depths[0] else stages[1:])]
        if min(depths) < 0 or 0 in depths[1:-1]:
            raise SettingsError(f"DC-AE depths {depths}: only the first and last stage may have depth 0.")
        if any(4 * fine % coarse or coarse % fine or fine % 4 for fine, coarse in pairwise(widths)):
            raise SettingsError(f"DC-AE widths {widths}: take multiples of 4 and grow by 1, 2 or 4 a stage.")
        if widths[-1] % self.latent_channels:
            raise SettingsError(f"DC-AE widths {widths}: end in a multiple of latent {self.latent_channels}.")
        if any(s.width % self.head_dim for s in stages if s.attention is not None):
            raise SettingsError(f"DC-AE widths {widths}: attention takes a multiple of {self.head_dim}.")

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
        config: dict[str, Any] = {theirs: getattr(self, ours) for ours, theirs in _IN_DIFFUSERS.items()}
        config["_class_name"] = "AutoencoderDC"
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


def _stages_from_diffusers(config: dict[str, Any], half: str, depths: tuple[int, ...]) -> tuple[Stage, ...]:
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
    return tuple(Stage(w, d, a, norm=norm, act=act) for w, d, a, norm, act in rows)


_SANA_DEEP = (Stage(512, 3, (5,)), Stage(1024, 3, (5,)), Stage(1024, 3, (5,)))
DC_AE_F32C32_SANA = DCAEConfig(  # sana-1.0 and sana-1.1 differ in weights only
    encoder=(Stage(128, 2), Stage(256, 2), Stage(512, 2), *_SANA_DEEP),
    decoder=(Stage(128, 3), Stage(256, 3), Stage(512, 3), *_SANA_DEEP),
    strided_down=True,
    interpolate_up=True,
    scaling_factor=0.41407,
)

DC_AE_LITE = replace(  # dc-ae-lite-f32c32-sana-1.1: the same encoder, a decoder of convolutions only
    DC_AE_F32C32_SANA,
    decoder=(Stage(128, 0), Stage(256, 3), Stage(512, 5), Stage(512, 4), Stage(1024, 4), Stage(1024, 4)),
    interpolate_up=False,
    out_act="silu",
)

DC_AE_POCKET = DCAEConfig(  # ours: trained by the repository's own recipe
    encoder=(Stage(8, 0), Stage(16, 1), Stage(32, 1), Stage(64, 1), Stage(128, 1), Stage(256, 1)),
    decoder=(Stage(16, 0), Stage(32, 1), Stage(64, 1), Stage(128, 2), Stage(256, 2), Stage(256, 2)),
)


class DCAE(nn.Module):
    """The autoencoder: images B 3 H W in [-1, 1] to latents B C H/32 W/32 and back.

    part: "both", or the half to build; the other one is None then and costs no memory.
    Latents are unscaled: multiply by config.scaling_factor before diffusion, divide before decode.
    """

    def __init__(self, config: DCAEConfig, part: Part = "both") -> None:
        super().__init__()
        if part not in ("both", "encoder", "decoder"):
            raise SettingsError(f"part {part!r} is unknown: use 'both', 'encoder' or 'decoder'.")
        self.config = config
        self.encoder = Encoder(config) if part != "decoder" else None
        self.decoder = Decoder(config) if part != "encoder" else None

    def encode(self, images: Tensor) -> Tensor:
        """Compress images (B 3 H W in [-1, 1]) to unscaled latents (B C H/f W/f, f = config.compression).

        Raises SizeError if H or W is no multiple of f, SettingsError if only the decoder was built.
        """
        if self.encoder is None:
            raise SettingsError("This DC-AE holds only its decoder: build it with part='both' to encode.")
        factor, channels = self.config.compression, self.config.image_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise SizeError(f"images came as {tuple(images.shape)}: give them as B {channels} H W.")
        height, width = images.shape[2:]
        if not height or not width or height % factor or width % factor:
            raise SizeError(f"{width}x{height} px: both sides must be multiples of {factor}; crop or pad.")
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Draw images (B 3 f*H f*W, about [-1, 1], not clamped) from unscaled latents (B C H W).

        Raises SizeError for another number of channels, SettingsError if only the encoder was built.
        """
        if self.decoder is None:
            raise SettingsError("This DC-AE holds only its encoder: build it with part='both' to decode.")
        channels = self.config.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise SizeError(f"latents came as {tuple(latents.shape)}: give them as B {channels} H W.")
        return self.decoder(latents)


class Encoder(nn.Module):
    """Images to latents; blocks of each stage, then a step down; a last shortcut averages channels."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        stages = config.encoder
        down = partial(DownStep, strided=config.strided_down)
        first = (config.image_channels, stages[0].width if stages[0].depth else stages[1].width)
        self.conv_in = nn.Conv2d(*first, 3, padding=1) if stages[0].depth else down(*first, shortcut=False)
        self.down_blocks = nn.ModuleList()
        for i, stage in enumerate(stages):
            layers = [_block(stage, config.head_dim) for _ in range(stage.depth)]
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
            layers = [_block(stage, config.head_dim) for _ in range(stage.depth)]
            if layers and i + 1 < len(stages):
                layers.insert(0, up(stages[i + 1].width, stage.width))
            self.up_blocks.append(nn.Sequential(*layers))
        last = (stages[0].width if stages[0].depth else stages[1].width, config.image_channels)
        self.norm_out = _ChannelRMSNorm(last[0])
        self.out_act = _ACTIVATIONS[config.out_act]
        self.conv_out = nn.Conv2d(*last, 3, padding=1) if stages[0].depth else up(*last, shortcut=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw B C H W as B 3 f*H f*W."""
        latents = latents.contiguous(memory_format=torch.channels_last)
        x = self.conv_in(latents)
        if self.in_shortcut:
            x = _add_repeated(x, latents)
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return self.conv_out(self.out_act(self.norm_out(x)))


class DownStep(nn.Module):
    """Halve H and W; the shortcut stacks each 2x2 patch into channels and averages neighbours of them."""

    def __init__(self, width: int, out_width: int, *, strided: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.out_width, self.strided, self.shortcut = out_width, strided, shortcut
        self.conv = nn.Conv2d(width, out_width if strided else out_width // 4, 3, 2 if strided else 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to B out_width H/2 W/2."""
        y = self.conv(x) if self.strided else F.pixel_unshuffle(self.conv(x), 2)
        return y + F.pixel_unshuffle(x, 2).unflatten(1, (self.out_width, -1)).mean(2) if self.shortcut else y


class UpStep(nn.Module):
    """Double H and W; the shortcut repeats channels and spreads them over 2x2 patches."""

    def __init__(self, width: int, out_width: int, *, interpolate: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.interpolate, self.shortcut = interpolate, shortcut
        self.conv = nn.Conv2d(width, out_width if interpolate else 4 * out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to B out_width 2H 2W."""
        if self.interpolate:
            y = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
            if self.shortcut:
                y = y + F.pixel_shuffle(x.repeat_interleave(4 * y.shape[1] // x.shape[1], dim=1), 2)
            return y
        y = self.conv(x)
        return F.pixel_shuffle(_add_repeated(y, x) if self.shortcut else y, 2)  # one shuffle serves both


class ResBlock(nn.Module):
    """x + norm(conv(act(conv(x))))."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.act = _ACTIVATIONS[stage.act]
        self.conv1 = nn.Conv2d(stage.width, stage.width, 3, padding=1)
        self.conv2 = nn.Conv2d(stage.width, stage.width, 3, padding=1, bias=False)
        self.norm = _norm(stage)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to the same shape."""
        return x + self.norm(self.conv2(self.act(self.conv1(x))))


class _MultiScaleAttention(nn.Module):
    """ReLU attention over the grid, one set of heads on the pixels and one per neighbourhood size."""

    def __init__(self, stage: Stage, kernel_sizes: tuple[int, ...], head_dim: int) -> None:
        super().__init__()
        width, self.head_dim = stage.width, head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_qkv_multiscale = nn.ModuleList(_window(3 * width, k, head_dim) for k in kernel_sizes)
        self.to_out = nn.Linear(width * (1 + len(kernel_sizes)), width, bias=False)
        self.norm_out = _norm(stage)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat((self.to_q.weight, self.to_k.weight, self.to_v.weight))  # cheaper than 3 maps
        qkv = F.linear(x.permute(0, 2, 3, 1), weight)  # B H W 3C
        branches = [
            qkv,
            *(branch(qkv.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for branch in self.to_qkv_multiscale),
        ]
        mixed = torch.cat([self._attend(branch) for branch in branches], dim=-1)  # B H W (1+S)C
        return x + self.norm_out(self.to_out(mixed).permute(0, 3, 1, 2))

    def _attend(self, qkv: Tensor) -> Tensor:  # B H W 3C -> B H W C
        # The published weights read each run of 3d channels as one head's q, k, v, whatever made them.
        linear = qkv.shape[1] * qkv.shape[2] > self.head_dim
        heads = qkv.flatten(1, 2).unflatten(-1, (-1, 3, self.head_dim)).permute(0, 2, 3, 1, 4)  # B G 3 N d
        with torch.autocast(qkv.device.type, enabled=False):
            heads = heads.float() if linear else heads  # sums over many cells leave the range of fp16
            query, key, value = F.relu(heads[:, :, 0]), F.relu(heads[:, :, 1]), heads[:, :, 2]  # B G N d
            if linear:
                total = query @ key.sum(-2).unsqueeze(-1)  # B G N 1
                mixed = query @ (key.transpose(-1, -2) @ value) / (total + _ATTENTION_EPS)
            else:
                scores = (query @ key.transpose(-1, -2)).float()  # B G N N
                mixed = (scores / (scores.sum(-1, keepdim=True) + _ATTENTION_EPS)).to(value.dtype) @ value
        return mixed.to(qkv.dtype).transpose(1, 2).reshape(*qkv.shape[:3], -1)


class _GatedConvMLP(nn.Module):
    """Widen eightfold, 3x3 depthwise, gate one half by the other, narrow; then norm and add (GLUMBConv)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_inverted = nn.Conv2d(width, 8 * width, 1)
        self.conv_depth = nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width)
        self.conv_point = nn.Conv2d(4 * width, width, 1, bias=False)
        self.norm = _ChannelRMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, dim=1)
        return x + self.norm(self.conv_point(value * F.silu(gate)))


class _ChannelRMSNorm(nn.Module):
    """Divide each pixel by the root mean square of its channels, then scale and shift per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.rms_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight.to(x.dtype), 1e-5)
        return (pixels + self.bias.to(x.dtype)).permute(0, 3, 1, 2)


def _block(stage: Stage, head_dim: int) -> nn.Module:
    if stage.attention is None:
        return ResBlock(stage)
    attention = _MultiScaleAttention(stage, stage.attention, head_dim)
    return nn.Sequential(OrderedDict(attn=attention, conv_out=_GatedConvMLP(stage.width)))


def _window(width: int, kernel_size: int, head_dim: int) -> nn.Sequential:
    """Queries, keys and values from a depthwise window, then mixed within each run of head_dim channels."""
    window = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width, bias=False)
    mix = nn.Conv2d(width, width, 1, groups=width // head_dim, bias=False)
    return nn.Sequential(OrderedDict(proj_in=window, proj_out=mix))


def _norm(stage: Stage) -> nn.Module:
    return _ChannelRMSNorm(stage.width) if stage.norm == "rms_norm" else nn.BatchNorm2d(stage.width)


def _add_repeated(x: Tensor, narrow: Tensor) -> Tensor:  # B r*C H W plus B C H W, channels r times in a row
    return (x.unflatten(1, (narrow.shape[1], -1)) + narrow.unsqueeze(2)).flatten(1, 2)
