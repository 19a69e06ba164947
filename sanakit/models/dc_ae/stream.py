"""DC-AE in bands of rows, exactly: what `DCAE.decode` and `DCAE.encode` give, in a fraction of the memory.

Convolution stages pass rows on as they become complete (`rows.py`): no halo is computed twice, no tile
is blended. A stage with attention holds its map once and changes it in place; with the published sizes the
largest such map has 1/8 of the image's side. The image itself need not exist: take its rows.

    for rows in decode_rows(autoencoder, latents):  # B 3 h W each, in order
        write(to_levels(rows))  # of images/image.py: B h W 3

A band is a number of latent rows, each f image rows, or a part of one. The widest stage handles as many at
a time, the others as many as take the same memory. Every band gives the same result up to rounding.
There are no gradients here.
Shapes: B images, C latent channels, H W latent grid, f = compression (32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.dc_ae.blocks import ChannelRMSNorm, EfficientViTBlock, StageConfig
from sanakit.models.dc_ae.rows import (
    ConvNode,
    Node,
    NormNode,
    Scratch,
    add_averaged,
    add_repeated,
    attend_in_place,
    node,
)

_BAND_VALUES = 2 << 20  # of an activation in an automatic band: 8 MB of float32; more gains no speed
_LEAST_BAND = 0.25  # of a latent row: 8 image rows; with fewer, most of a band would be rows kept from before
_BYTES = 4  # of a float32
_BUFFERS = 14  # of a band's size that a decode's peak comes to, the holes between them included: measured
_MAPPED = 32 << 20  # bytes from which on glibc gives a buffer back at once, so that half as many stay
_OVERHEAD = 30 << 20  # bytes: weights that attention picks out, and convolutions transform: measured


class Sizes(Protocol):
    """The part of a `DCAEConfig` that bands need."""

    @property
    def encoder(self) -> tuple[StageConfig, ...]:
        """Stages, from the finest."""
        ...

    @property
    def decoder(self) -> tuple[StageConfig, ...]:
        """Stages, from the finest."""
        ...

    @property
    def compression(self) -> int:
        """Image pixels per latent cell, along one side."""
        ...

    @property
    def image_channels(self) -> int:
        """Channels of an image."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...


class EncoderLayers(Protocol):
    """The layers of an encoder, to be run on rows."""

    conv_in: nn.Module
    down_blocks: nn.ModuleList
    conv_out: nn.Conv2d
    out_shortcut: bool


class DecoderLayers(Protocol):
    """The layers of a decoder, to be run on rows."""

    conv_in: nn.Conv2d
    in_shortcut: bool
    up_blocks: nn.ModuleList
    norm_out: ChannelRMSNorm
    out_act: Callable[[Tensor], Tensor]
    conv_out: nn.Module


class Autoencoder(Protocol):
    """The part of a `DCAE` that bands use."""

    training: bool

    @property
    def config(self) -> Sizes:
        """Its sizes."""
        ...

    def check_images(self, images: Tensor) -> EncoderLayers:
        """Return the encoder, or raise for images that do not fit."""
        ...

    def check_latents(self, latents: Tensor) -> DecoderLayers:
        """Return the decoder, or raise for latents that do not fit."""
        ...


def streams(model: Autoencoder, x: Tensor) -> bool:
    """Tell whether `band=None` means bands: float32 on a CPU, no gradients asked, the model in eval mode."""
    return not (torch.is_grad_enabled() or model.training) and x.dtype == torch.float32 and x.is_cpu


def decode(model: Autoencoder, latents: Tensor, band: float | None = None) -> Tensor:
    """Do what `DCAE.decode` does, in bands; band: latent rows at a time (None: `default_band`)."""
    model.check_latents(latents)
    size = [side * model.config.compression for side in latents.shape[2:]]
    images = latents.new_empty(latents.shape[0], model.config.image_channels, *size)
    return fill(images, decode_rows(model, latents, band), axis=2)


@torch.no_grad()
def decode_rows(model: Autoencoder, latents: Tensor, band: float | None = None) -> Iterator[Tensor]:
    """Draw the image of latents (B C H W, unscaled) from the top: B 3 h f*W, about [-1, 1], not clamped.

    band: latent rows handled at a time, up to H; less than 1 is possible (None: `default_band`). A piece
    has at most about h = band * f rows: stages pass on what is complete.
    Raises, before the first piece, SizeError or SettingsError for latents, band or model that do not fit.
    """
    decoder = model.check_latents(latents)
    batch, _, height, width = latents.shape
    limit = _limit(model.config.decoder, batch, height, width, band)
    for rows in _flow(latents.permute(0, 2, 3, 1), _decoder_parts(decoder), limit):
        yield rows.permute(0, 3, 1, 2)


@torch.no_grad()
def encode(model: Autoencoder, images: Tensor, band: float | None = None) -> Tensor:
    """Do what `DCAE.encode` does, in bands; band: latent rows at a time (None: automatic)."""
    encoder = model.check_images(images)
    height, width = (side // model.config.compression for side in images.shape[2:])
    latents = images.new_empty(images.shape[0], model.config.latent_channels, height, width)
    limit = _limit(model.config.encoder, len(images), height, width, band)
    rows = _flow(images.permute(0, 2, 3, 1), _encoder_parts(encoder), limit)
    fill(latents.permute(0, 2, 3, 1), rows, axis=1)
    return latents


def default_band(config: Sizes, height: int, width: int, batch: int = 1) -> float:
    """Return the latent rows that a decode of batch images of height x width px handles at a time by itself.

    With the published sizes 32 image rows at 512 px, 16 at 1024 px and 8 from 2048 px on: larger bands take
    more memory and no less time on a CPU.
    """
    factor = config.compression
    return _default_band(config.decoder, height // factor, width // factor, batch)


def decode_bytes(config: Sizes, height: int, width: int, band: float, batch: int = 1) -> int:
    """Estimate the peak memory of `decode_rows` above the weights, in bytes, within about a third.

    For float32 on a CPU. height, width: of the image, in pixels. band: latent rows. `DCAE.decode` holds the
    image too: 12 bytes a pixel.
    """
    stages, factor = config.decoder, config.compression
    maps = [stage.width // 4**i for i, stage in enumerate(stages) if stage.attention is not None]
    kept = sum(stage.width * (2 + 6 * stage.depth) // 2**i for i, stage in enumerate(stages))  # in buffers
    limit = _BYTES * _limit(stages, batch, height // factor, width // factor, band)
    buffers = _BUFFERS if limit <= _MAPPED else _BUFFERS // 2
    whole = batch * width * (height * max(maps, default=0) + kept)
    return _BYTES * whole + buffers * limit + _OVERHEAD


def _default_band(stages: tuple[StageConfig, ...], height: int, width: int, batch: int) -> float:
    return min(height, max(_LEAST_BAND, _BAND_VALUES / (batch * width * _widest(stages))))


def _limit(stages: tuple[StageConfig, ...], batch: int, height: int, width: int, band: float | None) -> int:
    """Return how many values one band's activation has in the widest stage; all stages take as many."""
    if band is None:
        band = _default_band(stages, height, width, batch)
    if not 0 < band <= height:
        raise SettingsError(
            f"band is {band}: it must be the number of latent rows per band, at most {height}."
        )
    return math.ceil(band * batch * width * _widest(stages))


def _widest(stages: tuple[StageConfig, ...]) -> int:
    """Return the values per latent cell of the widest activation."""
    finest = len(stages) - 1
    return max(4 ** (finest - i) * stage.width for i, stage in enumerate(stages) if stage.depth)


def _decoder_parts(decoder: DecoderLayers) -> Iterator[Node | EfficientViTBlock]:
    yield ConvNode(decoder.conv_in, add=add_repeated if decoder.in_shortcut else None)
    for stage in reversed(decoder.up_blocks):
        yield from _stage_parts(stage)
    yield NormNode(decoder.norm_out, decoder.out_act)
    yield node(decoder.conv_out)


def _encoder_parts(encoder: EncoderLayers) -> Iterator[Node | EfficientViTBlock]:
    yield node(encoder.conv_in)
    for stage in encoder.down_blocks:
        yield from _stage_parts(stage)
    yield ConvNode(encoder.conv_out, add=add_averaged if encoder.out_shortcut else None)


def _stage_parts(stage: nn.Module) -> Iterator[Node | EfficientViTBlock]:
    for layer in stage.children():
        yield layer if isinstance(layer, EfficientViTBlock) else node(layer)


def _flow(x: Tensor, parts: Iterable[Node | EfficientViTBlock], limit: int) -> Iterator[Tensor]:
    """Send x (B R W C) through the parts, stopping to hold the whole map wherever attention needs it."""
    nodes, scratch = [], Scratch()
    for part in parts:
        if isinstance(part, EfficientViTBlock):
            if nodes:
                x, nodes = whole_map(push(x, nodes, limit, scratch), x), []
            attend_in_place(x, part, _rows(x, 8 * x.shape[3], limit), scratch)
        else:
            nodes.append(part)
    yield from push(x, nodes, limit, scratch)


def push(x: Tensor, nodes: list[Node], limit: int, scratch: Scratch) -> Iterator[Tensor]:
    """Send x (B R W C) through nodes, each as many rows at a time as fit in `limit` values."""
    waiting = [(0, x, True)]  # (node, rows for it, are they its last?), those that go first at the end
    while waiting:
        i, rows, last = waiting.pop()
        if i == len(nodes):
            yield rows
        elif (most := _rows(rows, nodes[i].width, limit)) < rows.shape[1]:
            waiting += [(i, rows[:, most:], last), (i, rows[:, :most], False)]
        elif (ready := nodes[i](rows, last, scratch)) is not None:
            waiting.append((i + 1, ready, last))


def _rows(x: Tensor, width: int, limit: int) -> int:  # such that pieces of x are about equal, and fit
    batch, rows, columns, _ = x.shape
    pieces = math.ceil(rows / max(1, limit // (batch * columns * width)))
    return math.ceil(rows / pieces)


def whole_map(pieces: Iterator[Tensor], source: Tensor) -> Tensor:
    """Lay pieces into one map B R W C, whose rows are to the source's as its columns are."""
    first = next(pieces)
    rows = source.shape[1] * first.shape[2] // source.shape[2]
    if first.shape[1] == rows:
        return first
    x = first.new_empty(len(first), rows, *first.shape[2:])
    return fill(x, chain([first], pieces), axis=1)


def fill(whole: Tensor, pieces: Iterable[Tensor], *, axis: int) -> Tensor:
    """Lay pieces into a tensor one behind the other; return it."""
    top = 0
    for piece in pieces:
        rows = piece.shape[axis]
        whole.narrow(axis, top, rows).copy_(piece)
        top += rows
    return whole
