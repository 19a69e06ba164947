"""The blocks of DC-AE: residual convolutions, steps between resolutions, and EfficientViT for deep stages.

EfficientViT is ReLU linear attention over the grid, then a gated conv MLP. Parameter names equal diffusers'.
Source: arXiv:2410.10733, arXiv:2205.14756 and mit-han-lab/efficientvit (Apache-2.0).
Shapes: B batch, C channels, H W grid, N = H*W, G heads, d head width, S neighbourhood sizes. Modules map
B C H W; in memory channels lie last, so norms and attention read B H W C without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.ops.linear_attention import EPSILON

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": F.relu}
NORMS = ("rms_norm", "batch_norm")


@dataclass(frozen=True, slots=True)
class StageConfig:
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
        return F.pixel_shuffle(
            add_repeated_channels(y, x) if self.shortcut else y, 2
        )  # one shuffle serves both


class ResBlock(nn.Module):
    """x + norm(conv(act(conv(x))))."""

    def __init__(self, stage: StageConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[stage.act]
        self.conv1 = nn.Conv2d(stage.width, stage.width, 3, padding=1)
        self.conv2 = nn.Conv2d(stage.width, stage.width, 3, padding=1, bias=False)
        self.norm = _norm(stage)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to the same shape."""
        return x + self.norm(self.conv2(self.act(self.conv1(x))))


def make_block(stage: StageConfig, head_dim: int) -> nn.Module:
    """Return one block of a stage, with attention or without."""
    if stage.attention is None:
        return ResBlock(stage)
    return EfficientViTBlock(stage.width, stage.attention, head_dim, _norm(stage))


def _norm(stage: StageConfig) -> nn.Module:
    return ChannelRMSNorm(stage.width) if stage.norm == "rms_norm" else nn.BatchNorm2d(stage.width)


def add_repeated_channels(x: Tensor, narrow: Tensor) -> Tensor:
    """Add B C H W to B r*C H W, each channel r times in a row."""
    return (x.unflatten(1, (narrow.shape[1], -1)) + narrow.unsqueeze(2)).flatten(1, 2)


class EfficientViTBlock(nn.Module):
    """Attention to the whole grid, then an MLP with a 3x3 neighbourhood; both add to their input.

    kernel_sizes: each odd one (grid cells) adds a branch of heads whose queries, keys and values come from
    such a depthwise neighbourhood. norm: normalises what attention adds.
    """

    def __init__(self, width: int, kernel_sizes: Sequence[int], head_dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.attn = MultiScaleAttention(width, kernel_sizes, head_dim, norm)
        self.conv_out = GatedConvMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to the same shape."""
        return self.conv_out(self.attn(x))


class MultiScaleAttention(nn.Module):
    """ReLU attention over the grid, one set of heads on the pixels and one per neighbourhood size."""

    def __init__(self, width: int, kernel_sizes: Sequence[int], head_dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_qkv_multiscale = nn.ModuleList(Neighbourhood(3 * width, k, head_dim) for k in kernel_sizes)
        self.to_out = nn.Linear(width * (1 + len(kernel_sizes)), width, bias=False)
        self.norm_out = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to the same shape."""
        weight = torch.cat((self.to_q.weight, self.to_k.weight, self.to_v.weight))  # cheaper than 3 maps
        qkv = F.linear(x.permute(0, 2, 3, 1), weight)  # B H W 3C
        channels_first = qkv.permute(0, 3, 1, 2)
        branches = [qkv, *(branch(channels_first).permute(0, 2, 3, 1) for branch in self.to_qkv_multiscale)]
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
                mixed = query @ (key.transpose(-1, -2) @ value) / (total + EPSILON)
            else:
                scores = (query @ key.transpose(-1, -2)).float()  # B G N N
                mixed = (scores / (scores.sum(-1, keepdim=True) + EPSILON)).to(value.dtype) @ value
        return mixed.to(qkv.dtype).transpose(1, 2).reshape(*qkv.shape[:3], -1)


class Neighbourhood(nn.Sequential):
    """Queries, keys and values from a depthwise window, then mixed within each run of head_dim channels."""

    def __init__(self, width: int, kernel_size: int, head_dim: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.proj_in = nn.Conv2d(width, width, kernel_size, padding=padding, groups=width, bias=False)
        self.proj_out = nn.Conv2d(width, width, 1, groups=width // head_dim, bias=False)


class GatedConvMLP(nn.Module):
    """Widen eightfold, 3x3 depthwise, gate one half by the other, narrow; then norm and add (GLUMBConv)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_inverted = nn.Conv2d(width, 8 * width, 1)
        self.conv_depth = nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width)
        self.conv_point = nn.Conv2d(4 * width, width, 1, bias=False)
        self.norm = ChannelRMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to the same shape."""
        value, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, dim=1)
        return x + self.norm(self.conv_point(value * F.silu(gate)))


class ChannelRMSNorm(nn.Module):
    """Divide each pixel by the root mean square of its channels, then scale and shift per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map B C H W to the same shape."""
        pixels = F.rms_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight.to(x.dtype), 1e-5)
        return (pixels + self.bias.to(x.dtype)).permute(0, 3, 1, 2)
