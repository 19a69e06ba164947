"""The blocks of the LTX-2 video autoencoder, on a clip or on chunk after chunk of it, exactly.

A convolution sees a frame and two neighbours in time: the two before it if it is causal, else one on each
side. Beyond the clip its first or last frame repeats. A `FrameCache` keeps the frames whose neighbours have
not come yet, so that chunks give what the whole clip gives, and nothing is computed twice; the whole clip is
one chunk. Where time is halved or doubled, the first frame stays alone: 1 + 2n frames and 1 + n.
Parameter names equal diffusers'. Source: LTX-2 (Lightricks), read from diffusers' AutoencoderKLLTX2Video.
Shapes: B clips, T frames of a chunk, H W grid, C channels last. Layers map B T H W C.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.dc_ae.rows import add_averaged
from sanakit.ops.conv3x3x3 import HISTORY, conv3x3x3
from sanakit.ops.rms_norm import rms_norm_add

EPSILON = 1e-8  # of the norms


class FrameCache:
    """The frames that the layers of one half keep of a clip from chunk to chunk.

    causal: neighbours are the two frames before, and no layer waits for later ones. final: no chunk follows
    that a layer works on; who calls the layers sets it.
    """

    def __init__(self, *, causal: bool, final: bool = False) -> None:
        self.final = final
        self.before = HISTORY if causal else 1
        self._neighbours: dict[nn.Module, Tensor] = {}
        self._waiting: dict[nn.Module, Tensor] = {}
        self._opened: set[nn.Module] = set()

    def copy(self) -> FrameCache:
        """Return the same frames, to go on with: nothing that happens to it changes this one."""
        other = FrameCache(causal=self.before == HISTORY, final=self.final)
        other._neighbours, other._waiting = dict(self._neighbours), dict(self._waiting)
        other._opened = set(self._opened)
        return other

    def begins(self, layer: nn.Module) -> bool:
        """Return whether a layer has seen no frame of the clip yet."""
        return layer not in self._neighbours

    def opens(self, layer: nn.Module, result: Tensor) -> bool:
        """Return whether a layer's result B T H W C holds the first frames that it gives of the clip."""
        if layer in self._opened or not result.shape[1]:
            return False
        self._opened.add(layer)
        return True

    def window(self, layer: nn.Module, x: Tensor, step: int = 1) -> Tensor:
        """Return the frames that a layer can work on now with their neighbours, and keep those for later.

        x: the layer's next frames B T H W C, maybe none. step: frames come in multiples of it. Returns
        B n+2 H W C for n frames, `self.before` of the neighbours first; fewer than 3 frames mean none.
        """
        earlier = self._neighbours.get(layer)
        if earlier is None:
            if not x.shape[1]:
                return x
            earlier = x[:, :1].expand(-1, self.before, -1, -1, -1)
        pieces = [earlier, x]
        if self.final and self.before < HISTORY:
            pieces.append((x if x.shape[1] else earlier)[:, -1:])
        joined = torch.cat(pieces, dim=1)
        count = max(0, joined.shape[1] - HISTORY) // step * step
        self._neighbours[layer] = earlier[:, :0] if self.final else joined[:, count:].clone()
        return joined[:, : count + HISTORY] if count else joined[:, :0]

    def inner(self, window: Tensor) -> Tensor:
        """Return a window's frames without their neighbours."""
        return window[:, self.before : max(self.before, window.shape[1] - HISTORY + self.before)]

    def wait(self, layer: nn.Module, x: Tensor, count: int) -> Tensor:
        """Take frames B T H W C that wait for a layer's result; return the first `count` that wait."""
        earlier = self._waiting.pop(layer, None)
        joined = x if earlier is None else torch.cat((earlier, x), dim=1)
        if count < joined.shape[1]:
            self._waiting[layer] = joined[:, count:].clone()
        return joined[:, :count]


class FrameConv(nn.Module):
    """A 3x3x3 convolution of frames with their neighbours; padding: beside a frame, "zeros" or "reflect"."""

    def __init__(self, width: int, out_width: int, padding: str) -> None:
        super().__init__()
        self.conv, self.reflect = nn.Conv3d(width, out_width, 3), padding == "reflect"

    def forward(self, window: Tensor) -> Tensor:
        """Map a window of `FrameCache`, B n+2 H W C, to B n H W K."""
        conv, count = self.conv, max(0, window.shape[1] - HISTORY)
        if not count:
            return window.new_empty(len(window), 0, *window.shape[2:4], conv.out_channels)
        assert conv.bias is not None
        bias = conv.bias.to(window.dtype)
        if not self.reflect:
            return conv3x3x3(window, conv.weight, bias)
        wide = _reflected(_reflected(window, 2), 3)
        return conv3x3x3(wide, conv.weight, bias, above=1, below=1)[:, :, :, 1:-1]


class ClipResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the norm divides a place by the root of its mean square."""

    def __init__(self, width: int, padding: str) -> None:
        super().__init__()
        self.conv1 = FrameConv(width, width, padding)
        self.conv2 = FrameConv(width, width, padding)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        """Take the next frames; return those that are complete, as many in the end."""
        y = self.conv1(cache.window(self.conv1, silu_of_norm(x)))
        y = self.conv2(cache.window(self.conv2, silu_of_norm(y)))
        return y.add_(cache.wait(self, x, y.shape[1]))


class StepDown(nn.Module):
    """Make channels of 2 frames, 2x2 places or both, and add the mean of groups of the input's channels.

    step: what becomes one: frames, rows, columns.
    """

    def __init__(self, width: int, out_width: int, step: tuple[int, int, int], padding: str) -> None:
        super().__init__()
        self.step = step
        self.conv = FrameConv(width, out_width // math.prod(step), padding)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        """Take the next frames B T H W C; return those that are complete, B T' H' W' K."""
        frames = self.step[0]
        if frames == 2 and cache.begins(self.conv):
            x = torch.cat((x[:, :1], x), dim=1)
        window = cache.window(self.conv, x, frames)
        y = space_to_depth(self.conv(window), self.step)
        return add_averaged(y, space_to_depth(cache.inner(window), self.step))


class StepUp(nn.Module):
    """Make 2 frames, 2x2 places or both of channels, 1 / factor as many; residual: add the input's own.

    step: what one becomes: frames, rows, columns.
    """

    def __init__(
        self, width: int, step: tuple[int, int, int], factor: int, padding: str, *, residual: bool
    ) -> None:
        super().__init__()
        self.step, self.residual = step, residual
        self.conv = FrameConv(width, width * math.prod(step) // factor, padding)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        """Take the next frames B T H W C; return those that are complete, B T' H' W' K."""
        window = cache.window(self.conv, x)
        y = depth_to_space(self.conv(window), self.step)
        if self.residual:
            own = depth_to_space(cache.inner(window), self.step)  # fewer channels: they repeat
            y.unflatten(-1, (-1, own.shape[-1])).add_(own.unsqueeze(-2))
        return y[:, self.step[0] - 1 :] if cache.opens(self, y) else y


class ClipStage(nn.Module):
    """Residual blocks of one width."""

    def __init__(self, width: int, depth: int, padding: str) -> None:
        super().__init__()
        self.width = width  # values of its widest activation over a place of its input
        self.resnets = nn.ModuleList(ClipResBlock(width, padding) for _ in range(depth))

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        """Take the next frames; return those that are complete."""
        for block in self.resnets:
            x = block(x, cache)
        return x


class ClipDownStage(ClipStage):
    """Residual blocks, then a step down."""

    def __init__(
        self, width: int, out_width: int, step: tuple[int, int, int], depth: int, padding: str
    ) -> None:
        super().__init__(width, depth, padding)
        self.downsamplers = nn.ModuleList([StepDown(width, out_width, step, padding)])

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        """Take the next frames; return those that are complete, halved."""
        return self.downsamplers[0](super().forward(x, cache), cache)


class ClipUpStage(ClipStage):
    """A step up, then residual blocks. Arguments as for `StepUp`; width: of its input."""

    def __init__(
        self,
        width: int,
        step: tuple[int, int, int],
        factor: int,
        depth: int,
        padding: str,
        *,
        residual: bool,
    ) -> None:
        super().__init__(width // factor, depth, padding)
        self.upsamplers = nn.ModuleList([StepUp(width, step, factor, padding, residual=residual)])
        self.width = max(width, width // factor * math.prod(step))

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        """Take the next frames; return those that are complete, doubled."""
        return super().forward(self.upsamplers[0](x, cache), cache)


def silu_of_norm(x: Tensor) -> Tensor:
    """Return silu(x / sqrt(mean(x^2) + 1e-8)) over the last axis."""
    width = x.shape[-1]
    y = rms_norm_add(x.clone(), x.new_ones(width), x.new_zeros(width), eps=EPSILON)
    return F.silu(y, inplace=not y.requires_grad)


def space_to_depth(x: Tensor, step: tuple[int, int, int]) -> Tensor:
    """Map B T H W C to B T/t H/h W/w C*t*h*w; the offsets of a place lie within a channel, time outermost."""
    (batch, frames, rows, columns, width), (t, h, w) = x.shape, step
    x = x.reshape(batch, frames // t, t, rows // h, h, columns // w, w, width)
    shape = (batch, frames // t, rows // h, columns // w, width * t * h * w)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(shape)


def depth_to_space(x: Tensor, step: tuple[int, int, int]) -> Tensor:
    """Undo `space_to_depth`."""
    (batch, frames, rows, columns, width), (t, h, w) = x.shape, step
    channels = width // (t * h * w)
    x = x.reshape(batch, frames, rows, columns, channels, t, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, frames * t, rows * h, columns * w, channels)


def patch(clip: Tensor, side: int) -> Tensor:
    """Map B T H W 3 to B T H/p W/p 3*p*p; within a channel, columns lie outside rows."""
    return space_to_depth(clip.transpose(2, 3), (1, side, side)).transpose(2, 3)


def unpatch(x: Tensor, side: int) -> Tensor:
    """Undo `patch`."""
    return depth_to_space(x.transpose(2, 3), (1, side, side)).transpose(2, 3)


def _reflected(x: Tensor, axis: int) -> Tensor:
    """Add the second and the last but one slice of an axis on its two sides."""
    size = x.shape[axis]
    return torch.cat((x.narrow(axis, 1, 1), x, x.narrow(axis, size - 2, 1)), dim=axis)
