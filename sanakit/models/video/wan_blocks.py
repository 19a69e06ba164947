"""The blocks of the Wan 2.1 video autoencoder on whole clips: causal convolutions, attention within frames.

No frame depends on a later one. Where time is halved or doubled, the first frame passes as it is.
Parameter names equal diffusers'. Source: Wan 2.1 (arXiv:2503.20314, Apache-2.0), read from diffusers'
AutoencoderKLWan, whose frame-by-frame results these equal.
Shapes: B clips, C channels, T frames, H W grid. Modules map B C T H W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.ops.conv3x3x3 import conv3x3x3
from sanakit.ops.linear import linear


class ClipNorm(nn.Module):
    """Divide the channels of each place by their length, then scale: x / |x| * sqrt(C) * gamma.

    axes: those of a value behind its channels: 3 of a clip, 2 of an image.
    """

    def __init__(self, width: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *[1] * axes))

    @property
    def gain(self) -> Tensor:
        """The factor on a vector of length 1, C values."""
        return self.gamma.flatten() * len(self.gamma) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Map B C ... to the same shape; 16-bit values are normalised in float32."""
        return self.of_rows(x.movedim(1, -1)).movedim(-1, 1)

    def of_rows(self, x: Tensor) -> Tensor:
        """Map ... C to the same shape."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return F.normalize(wide, dim=-1).to(x.dtype) * self.gain.to(x.dtype)


class CausalConv(nn.Conv3d):
    """A convolution of size 3 or 1 in space, and in time over a frame and those before it, at first zeros."""

    def __init__(self, width: int, out_width: int, space: int = 3, time: int = 3) -> None:
        super().__init__(width, out_width, (time, space, space), padding=(0, space // 2, space // 2))

    def forward(self, input: Tensor) -> Tensor:
        """Map B C T H W to B K T H W."""
        x = F.pad(input, (0, 0, 0, 0, self.kernel_size[0] - 1, 0))
        # torch's own is faster where a gradient follows, by up to 1.5 times on a CPU in bfloat16
        if self.kernel_size != (3, 3, 3) or (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        return conv3x3x3(x.permute(0, 2, 3, 4, 1), self.weight, self.bias).permute(0, 4, 1, 2, 3)


class CausalResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); a 1x1x1 convolution of x where the widths differ."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ClipNorm(width), CausalConv(width, out_width)
        self.norm2, self.conv2 = ClipNorm(out_width), CausalConv(out_width, out_width)
        self.conv_shortcut = CausalConv(width, out_width, 1, 1) if width != out_width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W to B K T H W."""
        y = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class FrameAttention(nn.Module):
    """Softmax attention of one head among the places of a frame, added to it; no frame sees another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ClipNorm(width, 2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W to the same shape."""
        frames = x.permute(0, 2, 3, 4, 1)  # B T H W C
        return x + self.mixed(frames.flatten(0, 1)).view(frames.shape).permute(0, 4, 1, 2, 3)

    def mixed(self, frames: Tensor) -> Tensor:
        """Return what is added to frames N H W C."""
        bias, out_bias = self.to_qkv.bias, self.proj.bias
        assert bias is not None
        assert out_bias is not None
        qkv = linear(self.norm.of_rows(frames.flatten(1, 2)), self.to_qkv.weight, bias)  # N H*W 3C
        query, key, value = qkv.unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]  # N H*W C
        return linear(mixed, self.proj.weight, out_bias).view(frames.shape)


class MidBlock(nn.Module):
    """The coarsest blocks of either half: convolutions, attention, convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(CausalResBlock(width, width) for _ in range(2))
        self.attentions = nn.ModuleList([FrameAttention(width)])

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W to the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class ClipDown(nn.Module):
    """Halve H and W by a convolution, then, if `time`, the frames after the first: 1 + 2n become 1 + n.

    Of the frames, the first passes as it is; number k >= 1 of the result is a convolution of 2k-2 to 2k.
    """

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, 2))
        self.time_conv = nn.Conv3d(width, width, (3, 1, 1), (2, 1, 1)) if time else None

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W to B C T' H/2 W/2."""
        x = _each_frame(self.resample, x)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat((x[:, :, :1], self.time_conv(x)), dim=2)


class ClipUp(nn.Module):
    """Double the frames after the first if `time`, 1 + n become 1 + 2n; then H and W, and halve the channels.

    The first frame passes as it is, and the convolution of the others does not see it: zeros are before them.
    """

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        doubled = nn.Upsample(scale_factor=2, mode="nearest-exact")
        self.resample = nn.Sequential(doubled, nn.Conv2d(width, width // 2, 3, padding=1))
        self.time_conv = CausalConv(width, 2 * width, 1) if time else None

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W to B C/2 T' 2H 2W."""
        return _each_frame(self.resample, self.double_frames(x))

    def double_frames(self, x: Tensor) -> Tensor:
        """Map B C T H W to B C T' H W."""
        if self.time_conv is None or x.shape[2] == 1:
            return x
        pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))  # B 2 C T-1 H W
        return torch.cat((x[:, :, :1], pairs.movedim(1, 3).flatten(2, 3)), dim=2)


def _each_frame(layer: nn.Module, x: Tensor) -> Tensor:
    frames = x.transpose(1, 2)  # B T C H W
    return layer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
