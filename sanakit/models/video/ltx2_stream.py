"""One half of the LTX-2 video autoencoder at work on a clip, chunk after chunk, at bounded memory.

Between chunks every convolution keeps two frames of its input, whatever the clip's length. Each stage takes
as many frames at a time as fit its memory: coarse stages wait for more of them, which costs little memory and
saves reading their large weights again; fine stages take few. There are no gradients here. Every cut gives
the same result up to rounding.
Shapes: B clips, T frames, H W grid, C channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sanakit.models.video.ltx2_blocks import ClipResBlock, FrameCache, FrameConv
from sanakit.ops.conv3x3x3 import HISTORY

MOST_VALUES = 64 << 20  # of an activation: 256 MB of float32
FLOAT = 4  # bytes
_COPIES = 10  # activations of that size in memory at once: of a block, and what waits between stages
_OVERHEAD = 150 << 20  # bytes: weights that the kernel transforms, and its tiles


class ClipPart(NamedTuple):
    """A part of a half. width: values of its widest activation over a place of its input."""

    run: Callable[[Tensor, FrameCache], Tensor]
    width: int


class ClipStream:
    """The layers of one half, with what they keep of a clip. past: of the chunks before; it stays so."""

    def __init__(self, layers: Iterable[ClipPart], *, causal: bool, past: FrameCache | None = None) -> None:
        self.layers, self.cache = tuple(layers), past.copy() if past else FrameCache(causal=causal)

    @torch.no_grad()
    def push(self, x: Tensor, *, final: bool) -> Iterator[Tensor]:
        """Take the next chunk B T H W C, maybe of no frames; yield what is complete, in order.

        final: no chunk follows.
        """
        pieces: Iterator[tuple[Tensor, bool]] = iter([(x, final)])
        for layer in self.layers:
            pieces = self._passed(pieces, layer)
        for piece, _ in pieces:
            if piece.shape[1]:
                yield piece

    def _passed(
        self, pieces: Iterator[tuple[Tensor, bool]], layer: ClipPart
    ) -> Iterator[tuple[Tensor, bool]]:
        for piece, final in _regrouped(pieces, MOST_VALUES // layer.width):
            self.cache.final = final
            yield layer.run(piece, self.cache), final


def whole(layers: Iterable[ClipPart], x: Tensor, *, causal: bool) -> Tensor:
    """Run the layers on a whole clip B T H W C at once, with gradients."""
    cache = FrameCache(causal=causal, final=True)
    for layer in layers:
        x = layer.run(x, cache)
    return x


def stream_bytes(
    stages: Iterable[tuple[nn.Module, int]],
    finest: int,
    widest: FrameConv,
    frames: int,
    height: int,
    width: int,
) -> int:
    """Estimate what a stream of a clip takes above the weights, in bytes, beside the clip.

    stages: its modules and the pixels of a place of theirs, along one side. finest: the least of these.
    widest: the convolution there. frames, height, width: of the clip, in pixels.
    """
    kept = 0
    for module, side in stages:
        places = (height // side) * (width // side)
        for layer in module.modules():
            if isinstance(layer, FrameConv):
                kept += HISTORY * layer.conv.in_channels * places
            elif isinstance(layer, ClipResBlock):
                kept += HISTORY * layer.conv1.conv.in_channels * places  # wait for its result
    channels = max(widest.conv.in_channels, widest.conv.out_channels)
    frame = (height // finest) * (width // finest) * channels
    return FLOAT * (kept + _COPIES * min(frames * frame, max(MOST_VALUES, frame))) + _OVERHEAD


def _regrouped(pieces: Iterator[tuple[Tensor, bool]], places: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut and join pieces B T H W C along time to as many frames as have so many places; less at the end.

    Each comes with whether it ends the clip. Pieces without frames are left out unless they end it.
    """
    held = None
    for piece, final in pieces:
        held = piece if held is None else torch.cat((held, piece), dim=1)
        most = max(1, places // (len(held) * held.shape[2] * held.shape[3]))
        while held.shape[1] > most:
            yield held[:, :most], False
            held = held[:, most:]
        if final:
            yield held, True
            return
    if held is not None and held.shape[1]:
        yield held, False
