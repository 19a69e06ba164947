"""The blocks of the Wan 2.1 video autoencoder on rows of a chunk of frames, and what they keep of both.

A node takes the next rows of its input, of all frames of the chunk, and returns the rows that are complete.
It keeps the few rows that later rows need until the chunk ends (`dc_ae/rows.py`), and the last frames of its
input for the chunk that follows. Nothing is computed twice or approximated.
Source: ours; the arithmetic is that of `wan_blocks.py`, regrouped, and equal to it up to rounding.
Shapes: B clips, T frames of a chunk, N = B*T, R rows, W columns, C channels last.
Weights may be stored in fewer bits than the rows: widening them to the dtype of the rows is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.dc_ae.rows import ConvNode, LineBuffer, Node, Scratch
from sanakit.models.video.wan_blocks import (
    CausalConv,
    CausalResBlock,
    ClipDown,
    ClipNorm,
    ClipUp,
    FrameAttention,
)
from sanakit.ops.conv3x3x3 import HISTORY, conv3x3x3
from sanakit.ops.linear import linear
from sanakit.ops.norm_silu import norm_silu


@dataclass(slots=True)
class Chunk:
    """The chunk that all nodes of one stream work on.

    first: it begins at the clip's first frame. final: no chunk follows, so that none of its frames are kept.
    """

    clips: int
    first: bool = True
    final: bool = False
    histories: list[FrameHistory] = field(default_factory=list)  # of all nodes, in the order of their making

    def frames(self, rows: Tensor) -> Tensor:
        """Return rows N R W C as B T R W C."""
        return rows.unflatten(0, (self.clips, -1))


class FrameHistory:
    """The last `count` frames of a node's input before the chunk, zeros before the clip."""

    def __init__(self, count: int, chunk: Chunk) -> None:
        self.count, self.chunk = count, chunk
        self.kept: Tensor | None = None  # B count H W C
        self.pieces: list[Tensor] = []  # what will be kept of the first chunk, whose height is not known yet
        self.top = 0
        chunk.histories.append(self)

    def before(self, rows: Tensor, last: bool, again: int = 0, scratch: Scratch | None = None) -> Tensor:
        """Return the frames before and the next rows N R W C as B count+T R W C; keep the last frames.

        again: how many rows at the bottom will come once more, at the top of the next ones. scratch: where
        the result may lie, until the next window.
        """
        frames, top = self.chunk.frames(rows), self.top
        done = frames.shape[2] - again
        if self.kept is None:
            earlier = frames.new_zeros(len(frames), self.count, *frames.shape[2:])
        else:
            earlier = self.kept[:, :, top : top + frames.shape[2]]
        shape = (len(frames), self.count + frames.shape[1], *frames.shape[2:])
        out = None if scratch is None else scratch.room(0, shape, frames)
        joined = torch.cat((earlier, frames), dim=1, out=out)
        if not self.chunk.final:
            self._keep(joined[:, -self.count :, :done], last)
        self.top = 0 if last else top + done
        return joined

    def _keep(self, frames: Tensor, last: bool) -> None:
        if self.kept is not None:
            self.kept[:, :, self.top : self.top + frames.shape[2]] = frames
            return
        self.pieces.append(frames.clone())
        if last:
            self.kept, self.pieces = torch.cat(self.pieces, dim=2), []


def wan_node(module: nn.Module, chunk: Chunk, *, norm: ClipNorm | None = None) -> Node:
    """Make the twin of a module on rows. norm: before a convolution, with SiLU."""
    if isinstance(module, CausalResBlock):
        return _ResNode(module, chunk)
    if isinstance(module, ClipDown):
        return _DownNode(module, chunk)
    if isinstance(module, ClipUp):
        return _UpNode(module, chunk)
    if isinstance(module, CausalConv):
        return PointNode(module) if module.kernel_size == (1, 1, 1) else _CausalNode(module, chunk, norm)
    raise TypeError(f"{type(module).__name__} has no version for rows")


class PointNode:
    """A 1x1x1 convolution."""

    def __init__(self, conv: nn.Conv3d) -> None:
        self.conv, self.width = conv, max(conv.in_channels, conv.out_channels)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor:
        """Take the next rows N R W C; return as many."""
        return linear(rows, self.conv.weight, _bias(self.conv, rows))


class _CausalNode:
    """A causal 3x3x3 convolution, one row late; before it silu(norm(x)), if there is a norm."""

    def __init__(self, conv: nn.Conv3d, chunk: Chunk, norm: ClipNorm | None = None) -> None:
        self.conv, self.norm, self.chunk = conv, norm, chunk
        self.width = max(conv.in_channels, conv.out_channels)
        self.history, self.lines = FrameHistory(HISTORY, chunk), LineBuffer(1)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        if self.norm is not None:
            rows = norm_silu(rows, self.norm.gain.to(rows.dtype))
        rows = self.history.before(rows, last).flatten(0, 1)
        window = self.lines.push(rows, last, scratch)
        if last:
            self.lines = LineBuffer(1)
        if window is None:
            return None
        del rows  # a convolution has its window beside its result, and nothing else
        frames, (_, above, below) = self.chunk.frames(window.rows), window
        y = conv3x3x3(frames, self.conv.weight, _bias(self.conv, frames), above=above, below=below)
        return y.flatten(0, 1).contiguous()


class _ResNode:
    """Both convolutions of a residual block, two rows late.

    The two rows of x that wait for them are those that the first convolution sees again, too: they are kept
    once, as they came, and normalised again.
    """

    def __init__(self, block: CausalResBlock, chunk: Chunk) -> None:
        self.conv, self.norm, self.chunk = block.conv1, block.norm1, chunk
        self.history = FrameHistory(HISTORY, chunk)
        self.second, self.second_norm = _CausalNode(block.conv2, chunk), block.norm2
        shortcut = block.conv_shortcut
        self.shortcut = PointNode(shortcut) if isinstance(shortcut, CausalConv) else None
        self.width = max(self.conv.in_channels, self.second.width)
        self.waiting: Tensor | None = None
        self.above = 0  # of the waiting rows, how many the first convolution has given already

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        waiting = rows[:, :0] if self.waiting is None else self.waiting
        y = self._first(waiting, rows, last, scratch)
        if y is not None:
            y = norm_silu(y, self.second_norm.gain.to(y.dtype))  # here, where what it is made of is let go
            y = self.second(y, last, scratch)
        done = 0 if y is None else y.shape[1]
        old = min(waiting.shape[1], done)
        self.waiting = None if last else torch.cat((waiting[:, old:], rows[:, done - old :]), dim=1)
        if y is not None:
            for part, x in ((y[:, :old], waiting[:, :old]), (y[:, old:], rows[:, : done - old])):
                if x.shape[1]:
                    part += x if self.shortcut is None else self.shortcut(x, last, scratch)
        return y

    def _first(self, waiting: Tensor, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        """Return the rows of the first convolution that are ready, if any."""
        seen = norm_silu(scratch.join(0, waiting, rows), self.norm.gain.to(rows.dtype))
        height, below = seen.shape[1], 0 if last else 1
        again = 0 if last else min(2, height)
        above, ready = self.above, height - self.above - below
        self.above = 0 if last else above + ready - (height - again)
        frames = self.history.before(seen, last, again, scratch)
        if ready <= 0:
            return None
        del seen
        y = conv3x3x3(frames, self.conv.weight, _bias(self.conv, rows), above=above, below=below)
        return y.flatten(0, 1).contiguous()


class _DownNode:
    """Halve both sides two rows at a time, then the frames."""

    def __init__(self, module: ClipDown, chunk: Chunk) -> None:
        self.time, self.chunk = module.time_conv, chunk
        conv = module.resample[1]
        assert isinstance(conv, nn.Conv2d)
        self.conv, self.width = conv, conv.in_channels
        self.history, self.lines = FrameHistory(1, chunk), LineBuffer(1, step=2)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        window = self.lines.push(rows, last, scratch)
        if last:
            self.lines = LineBuffer(1, step=2)
        if window is None:
            return None
        x = window.rows[:, window.above :].permute(0, 3, 1, 2)
        x = F.pad(x, (0, 1, 0, 1 - window.below))
        y = F.conv2d(x, self.conv.weight.to(x.dtype), _bias(self.conv, x), 2).permute(0, 2, 3, 1).contiguous()
        return y if self.time is None else self._halve(self.time, y, last).flatten(0, 1)

    def _halve(self, conv: nn.Conv3d, rows: Tensor, last: bool) -> Tensor:  # B T R W C
        frames = self.history.before(rows, last)
        if not self.chunk.first:
            return _over_time(conv, frames, 2)
        frames = frames[:, 1:]  # there is nothing before the clip
        alone = frames[:, :1]
        return alone if frames.shape[1] == 1 else torch.cat((alone, _over_time(conv, frames, 2)), dim=1)


class _UpNode:
    """Double the frames, then both sides."""

    def __init__(self, module: ClipUp, chunk: Chunk) -> None:
        self.time, self.chunk, self.history = module.time_conv, chunk, FrameHistory(HISTORY, chunk)
        conv = module.resample[1]
        assert isinstance(conv, nn.Conv2d)
        self.space = ConvNode(conv, upsample=True)
        self.width = max(self.space.width, 2 * conv.in_channels)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        if self.time is not None:
            rows = self._double(self.time, self.chunk.frames(rows), last).flatten(0, 1)
        y = self.space(rows, last, scratch)
        if last:
            self.space.lines = LineBuffer(1)
        return y

    def _double(self, conv: nn.Conv3d, frames: Tensor, last: bool) -> Tensor:
        alone = 1 if self.chunk.first else 0  # the clip's first frame, which the others do not see
        later = frames[:, alone:]
        if later.shape[1] == 0:
            return frames
        count, width = later.shape[1], later.shape[-1]
        pairs = _over_time(conv, self.history.before(later.flatten(0, 1), last), 1)  # B T R W 2C
        y = frames.new_empty(len(frames), alone + 2 * count, *frames.shape[2:])
        y[:, :alone] = frames[:, :alone]
        for half in range(2):
            y[:, alone + half :: 2] = pairs[..., half * width : (half + 1) * width]
        return y


def _over_time(conv: nn.Conv3d, frames: Tensor, step: int) -> Tensor:
    """Convolve B T+2 R W C with a kernel of 3x1x1: every `step`-th frame of the result, B T' R W K."""
    y = None
    for tap in range(3):
        some = frames[:, tap : frames.shape[1] - 2 + tap : step]
        part = linear(some, conv.weight[:, :, tap], _bias(conv, frames) if tap == 0 else None)
        y = part if y is None else y.add_(part)
    assert y is not None
    return y


def attend(x: Tensor, block: FrameAttention) -> None:
    """Add a block's attention to whole frames N H W C in place, one frame at a time."""
    for frame in x.split(1):
        frame += block.mixed(frame)


def _bias(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor | None:
    return None if conv.bias is None else conv.bias.to(x.dtype)
