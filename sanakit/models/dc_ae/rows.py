"""The blocks of DC-AE on rows: line-buffered convolutions, and attention over a map that is stored once.

A convolution stage never sees the whole image. A node takes the next rows of its input, returns complete
rows, and keeps the few that later rows need. Nothing is computed twice or approximated. ReLU attention looks
at the whole map, but only through sums of d x (d+1) numbers a head. One sweep over the rows adds them up from
keys and values; a second one computes queries, applies the sums and goes on into the MLP, in place.
Source: ours; the arithmetic is that of `model.py`, regrouped, and equal to it up to rounding.
Shapes: B images, R rows, W columns, C channels last, G heads, d head width, n = R*W cells, P of q, k, v.
Weights may be stored in fewer bits than the rows: widening them to the dtype of the rows is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.dc_ae.blocks import (
    ChannelRMSNorm,
    DownStep,
    EfficientViTBlock,
    GatedConvMLP,
    MultiScaleAttention,
    Neighbourhood,
    ResBlock,
    UpStep,
)
from sanakit.ops.conv3x3 import conv3x3
from sanakit.ops.gated_depthwise import gated_depthwise
from sanakit.ops.linear import linear
from sanakit.ops.linear_attention import attend, attention_sums
from sanakit.ops.rms_norm import rms_norm_add

_QUERY, _KEY_VALUE = slice(0, 1), slice(1, 3)  # places within a head's run of q, k, v channels


class Window(NamedTuple):
    """Rows B R W C, of which `above` and `below` are read-only neighbours."""

    rows: Tensor
    above: int
    below: int

    @property
    def inner(self) -> Tensor:
        """The rows without their neighbours."""
        return self.rows[:, self.above : self.rows.shape[1] - self.below]


class Scratch:
    """Memory that successive windows share: fresh memory costs page faults and fragments."""

    def __init__(self) -> None:
        self.slots: dict[int, Tensor] = {}

    def join(self, slot: int, kept: Tensor, rows: Tensor) -> Tensor:
        """Lay rows (B R W C) below kept ones, over what was joined in this slot before."""
        shape = (rows.shape[0], kept.shape[1] + rows.shape[1], *rows.shape[2:])
        return torch.cat((kept, rows), dim=1, out=self.room(slot, shape, rows))

    def room(self, slot: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return memory for values like these, over what was in this slot before."""
        size = math.prod(shape)
        if slot not in self.slots or self.slots[slot].numel() < size:
            self.slots.pop(slot, None)  # frees it before there is more
            self.slots[slot] = like.new_empty(size)
        return self.slots[slot][:size].view(shape)


class LineBuffer:
    """Turn bands of rows into windows with up to `reach` neighbours on each side, each row inner just once.

    step: inner rows come in multiples of it (2 for what halves the image). slot: of the scratch memory that
    holds a window until the next one.
    """

    def __init__(self, reach: int, *, step: int = 1, slot: int = 0) -> None:
        self.reach, self.step, self.slot = reach, step, slot
        self.kept: Tensor | None = None
        self.above = 0

    def push(self, rows: Tensor, last: bool, scratch: Scratch) -> Window | None:
        """Take the next rows B R W C; return the window that they complete, if any. `last` completes all."""
        if self.kept is not None:
            rows = scratch.join(self.slot, self.kept, rows)
        ready = rows.shape[1] - self.above - (0 if last else self.reach)
        ready -= ready % self.step
        if ready <= 0:
            self._keep(rows)
            return None
        end, above = self.above + ready, self.above
        self.above = min(self.reach, end)
        self._keep(rows[:, end - self.above :])
        below = min(self.reach, rows.shape[1] - end)
        return Window(rows[:, : end + below].contiguous(), above, below)

    def _keep(self, rows: Tensor) -> None:  # a copy, since a view would hold its whole band in memory
        if self.kept is not None and self.kept.shape == rows.shape:
            self.kept.copy_(rows)  # in place, since small new pieces between large ones break memory up
        else:
            self.kept = rows.clone()


class Node(Protocol):
    """A layer on rows. width: channels of its widest activation, counted per column of its input."""

    width: int

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        """Take the next rows B R W C, and whether they are the last; return those that are ready, if any."""
        ...


def node(module: nn.Module) -> Node:
    """Make the line-buffered twin of a 3x3 convolution, ResBlock, UpStep or DownStep."""
    if isinstance(module, ResBlock):
        return _ResNode(module)
    if isinstance(module, DownStep):
        return _DownNode(module)
    if isinstance(module, UpStep):
        add = (_add_spread if module.interpolate else add_repeated) if module.shortcut else None
        if module.interpolate:
            return ConvNode(module.conv, add=add, upsample=True)
        return ConvNode(module.conv, add=add, finish=_shuffle)
    if isinstance(module, nn.Conv2d):
        return ConvNode(module)
    raise TypeError(f"{type(module).__name__} has no version for rows")


class ConvNode:
    """A 3x3 convolution; `add` puts its shortcut onto the result in place, `finish` rearranges that."""

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        add: Callable[[Tensor, Tensor], object] | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
        upsample: bool = False,
    ) -> None:
        self.conv, self.add, self.finish, self.upsample = conv, add, finish, upsample
        self.width = max(conv.in_channels, conv.out_channels * (4 if upsample else 1))
        self.lines = LineBuffer(1)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        """Take the next rows B R W C; return those that are ready, if any."""
        window = self.lines.push(rows, last, scratch)
        if window is None:
            return None
        y = _conv(window, self.conv, upsample=self.upsample)
        if self.add is not None:
            self.add(y, window.inner)
        return y if self.finish is None else self.finish(y)


class NormNode:
    """act(norm(x)), row by row."""

    def __init__(self, norm: ChannelRMSNorm, act: Callable[..., Tensor]) -> None:
        self.norm, self.act, self.width = norm, act, len(norm.weight)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor:
        """Take the next rows B R W C, whose memory is given up; return as many."""
        return self.act(_norm_add(self.norm, rows.contiguous(), None), inplace=True)


class _ResNode:
    """x + norm(conv(act(conv(x)))), two rows late: a window of reach 2 feeds convolution and sum."""

    def __init__(self, block: ResBlock) -> None:
        self.block, self.width = block, block.conv1.in_channels
        self.lines, self.middle = LineBuffer(2), LineBuffer(1, slot=1)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        window = self.lines.push(rows, last, scratch)
        if window is None:
            return None
        # The row after those given is convolved already: start beyond it, unless none was given yet.
        begun = min(window.above, 1)
        ahead = Window(window.rows[:, window.above :], begun, min(window.below, 1))
        middle = self.middle.push(_conv(ahead, self.block.conv1, act=self.block.act), last, scratch)
        assert middle is not None  # as many rows are ready here as in the window
        return _norm_add(self.block.norm, _conv(middle, self.block.conv2), window.inner)


class _DownNode:
    """Halve the image two rows at a time."""

    def __init__(self, module: DownStep) -> None:
        self.module, self.width = module, module.conv.in_channels
        self.lines = LineBuffer(1, step=2)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Tensor | None:
        window = self.lines.push(rows, last, scratch)
        if window is None:
            return None
        if self.module.strided:
            y = _strided(window, self.module.conv)
        else:
            y = _unshuffle(_conv(window, self.module.conv))
        return add_averaged(y, _unshuffle(window.inner)) if self.module.shortcut else y


def _conv(
    window: Window, conv: nn.Conv2d, *, act: Callable[..., Tensor] | None = None, upsample: bool = False
) -> Tensor:
    rows, above, below = window
    y = conv3x3(
        rows.contiguous(),
        conv.weight,
        _as(conv.bias, rows),
        above=above,
        below=below,
        upsample=upsample,
        silu=act is F.silu,
    )
    return y if act is None or act is F.silu else act(y, inplace=True)


def _strided(window: Window, conv: nn.Conv2d) -> Tensor:
    x = window.rows[:, : window.rows.shape[1] - window.below].permute(0, 3, 1, 2)
    x = F.pad(x, (0, 0, 1 - window.above, 0))
    return F.conv2d(x, conv.weight.to(x.dtype), _as(conv.bias, x), 2, (0, 1)).permute(0, 2, 3, 1).contiguous()


def _norm_add(norm: nn.Module, x: Tensor, residual: Tensor | None) -> Tensor:
    if isinstance(norm, ChannelRMSNorm):
        residual = None if residual is None else residual.contiguous()
        return rms_norm_add(x, norm.weight.to(x.dtype), norm.bias.to(x.dtype), residual)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if norm.training:
        raise SettingsError("Batch norm in training mode needs the whole image: call .eval(), or omit band.")
    gain = norm.weight.float() * (norm.running_var.float() + norm.eps).rsqrt()
    shift = norm.bias.float() - norm.running_mean.float() * gain
    y = torch.addcmul(shift.to(x.dtype), x, gain.to(x.dtype))
    return y if residual is None else y.add_(residual)


def _as(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)


def add_repeated(y: Tensor, x: Tensor) -> Tensor:
    """Add x B R W C to y B R W r*C in place, each channel r times in a row."""
    y.unflatten(-1, (x.shape[-1], -1)).add_(x.unsqueeze(-1))
    return y


def add_averaged(y: Tensor, x: Tensor) -> Tensor:
    """Add x B R W r*C to y B R W C in place, the mean of each run of r channels."""
    runs = x.unflatten(-1, (y.shape[-1], -1))
    for channel in runs.unbind(-1):  # a mean over an axis this short takes torch two to four times as long
        y.add_(channel, alpha=1 / runs.shape[-1])
    return y


def _add_spread(
    y: Tensor, x: Tensor
) -> Tensor:  # B 2R 2W K plus B R W C; its 1, 2 or 4 channels fill a 2x2 patch
    channels = x.shape[-1] // y.shape[-1]
    patch = (y.shape[-1], min(channels, 2), max(channels // 2, 1))
    x = x.unflatten(-1, patch).permute(0, 1, 4, 2, 5, 3)  # B R 1|2 W 1|2 K
    y.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).add_(x)
    return y


def _shuffle(x: Tensor) -> Tensor:  # B R W 4K -> B 2R 2W K
    return x.unflatten(-1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)


def _unshuffle(x: Tensor) -> Tensor:  # B 2R 2W C -> B R W 4C
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(3)


@torch.no_grad()
def attend_in_place(x: Tensor, block: EfficientViTBlock, rows: int, scratch: Scratch) -> None:
    """Replace the map x (B H W C, contiguous) by an EfficientViT block of it, `rows` rows at a time.

    The rows of x make way for the result as soon as the sweep is past them: line buffers hold what later rows
    need, already projected.
    """
    attention, mlp = block.attn, block.conv_out
    sums = _key_value_sums(x, attention, rows, scratch)
    project, expanded = _Projection(attention, _QUERY, x), LineBuffer(1, slot=1)
    mixed = done = 0  # how many rows of x hold attention, and how many the MLP on top
    for band, last in _bands(x, rows):
        window = project(band, last, scratch)
        if window is None:
            continue
        y = linear(_mix(project, window, sums), attention.to_out.weight)
        start, mixed = mixed, mixed + y.shape[1]
        x[:, start:mixed] = _norm_add(attention.norm_out, y, x[:, start:mixed])
        del window, y
        window = expanded.push(_expand(mlp, x[:, start:mixed].contiguous()), last, scratch)
        if window is None:
            continue
        y = _narrow(mlp, window)
        start, done = done, done + y.shape[1]
        x[:, start:done] = _norm_add(mlp.norm, y, x[:, start:done])


def _key_value_sums(x: Tensor, attention: MultiScaleAttention, rows: int, scratch: Scratch) -> list[Tensor]:
    """Return per branch the sums over all keys and values, B G d+1 d: all that a query needs of the map."""
    project = _Projection(attention, _KEY_VALUE, x)
    sums: list[Tensor] = []
    for band, last in _bands(x, rows):
        window = project(band, last, scratch)
        if window is None:
            continue
        for i, heads in enumerate(project.heads(window)):
            part = attention_sums(heads[:, :, 0], heads[:, :, 1])
            sums[i : i + 1] = [sums[i] + part if i < len(sums) else part]
    return sums


def _mix(project: _Projection, window: Window, sums: list[Tensor]) -> Tensor:
    """Return each query's weighted mean of the values, B R W S*C for S branches of heads."""
    branches = zip(project.heads(window), sums, strict=True)
    mixed = [attend(heads[:, :, 0], total).transpose(1, 2).flatten(2) for heads, total in branches]
    return torch.cat(mixed, dim=-1).to(window.rows.dtype).unflatten(1, window.inner.shape[1:3])


class _Projection:
    """Queries, or keys and values, of all branches of heads, through one line buffer of their projection.

    Heads read each run of 3d channels as q, k, v, and all that lies between x and them (the projection, the
    depthwise windows, the mixing of runs of d channels) keeps those apart: the rows of the weights that
    belong to one kind compute that kind alone.
    """

    def __init__(self, attention: MultiScaleAttention, kinds: slice, x: Tensor) -> None:
        self.head_dim, self.kinds = attention.head_dim, kinds
        layers = (attention.to_q, attention.to_k, attention.to_v)
        self.weight = self._pick(torch.cat([layer.weight for layer in layers]))
        self.windows: list[tuple[Tensor, Tensor]] = []
        for branch in attention.to_qkv_multiscale:
            assert isinstance(branch, Neighbourhood)
            around, mix = (self._pick(conv.weight).to(x.dtype) for conv in (branch.proj_in, branch.proj_out))
            self.windows.append((around, mix.flatten(1).unflatten(0, (-1, self.head_dim)).transpose(1, 2)))
        self.lines = LineBuffer(max((around.shape[-1] // 2 for around, _ in self.windows), default=0))

    def _pick(self, weight: Tensor) -> Tensor:  # 3C ... -> P*C ...
        return weight.unflatten(0, (-1, 3, self.head_dim))[:, self.kinds].flatten(0, 2)

    def __call__(self, rows: Tensor, last: bool, scratch: Scratch) -> Window | None:
        return self.lines.push(linear(rows, self.weight), last, scratch)

    def heads(self, window: Window) -> Iterator[Tensor]:
        """Yield the heads of one branch after another, B G P n d."""
        split = (-1, self.kinds.stop - self.kinds.start, self.head_dim)
        yield window.inner.flatten(1, 2).unflatten(-1, split).permute(0, 2, 3, 1, 4)
        for around, mix in self.windows:
            y = _depthwise(window, around).flatten(1, 2).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            yield (y @ mix).unflatten(1, split[:2])


def _depthwise(window: Window, weight: Tensor) -> Tensor:
    reach = weight.shape[-1] // 2
    above, below = min(window.above, reach), min(window.below, reach)  # another branch may look farther
    rows = window.rows[:, window.above - above : window.rows.shape[1] - window.below + below]
    x = F.pad(rows.permute(0, 3, 1, 2), (0, 0, reach - above, reach - below))
    return F.conv2d(x, weight, None, 1, (0, reach), 1, x.shape[1]).permute(0, 2, 3, 1).contiguous()


def _expand(mlp: GatedConvMLP, x: Tensor) -> Tensor:  # B R W C -> B R W 8C
    return linear(x, mlp.conv_inverted.weight.flatten(1), _as(mlp.conv_inverted.bias, x))


def _narrow(mlp: GatedConvMLP, window: Window) -> Tensor:  # B R W 8C -> B R W C
    rows, above, below = window
    depth = mlp.conv_depth
    y = gated_depthwise(rows, depth.weight.to(rows.dtype), _as(depth.bias, rows), above=above, below=below)
    return linear(y, mlp.conv_point.weight.flatten(1))


def _bands(x: Tensor, rows: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut x (B H W C) into bands of `rows` rows; yield each, contiguous, and whether it is the last."""
    height = x.shape[1]
    for top in range(0, height, rows):
        yield x[:, top : top + rows].contiguous(), top + rows >= height
