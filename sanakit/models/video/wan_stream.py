"""The Wan 2.1 video autoencoder chunk after chunk of a clip, each in bands of rows, exactly.

    for frames in decode_stream(vae, chunks):  # B 3 T H W each, in order

Between chunks a convolution keeps the last two frames of its input, whatever the clip's length: 3.8 GB for a
decoder of the published size at 480x832 px in float32. Within a chunk only attention, at an eighth of the
sides, sees whole frames; all else passes rows on as they become complete (`wan_rows.py`). A clip that is
short for its height is one chunk: rows kept for all its frames take less than frames kept of all its rows.
There are no gradients here. Every chunk and band gives the same result up to rounding.
Shapes: B clips, C latent channels, T frames, H W pixels, t h w latents, N = frames of all clips, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sanakit.models.dc_ae.rows import Node, Scratch
from sanakit.models.dc_ae.stream import push, whole_map
from sanakit.models.video.frame_rule import check_alike, chunk_sizes
from sanakit.models.video.wan_blocks import CausalConv, ClipNorm, FrameAttention, MidBlock
from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.models.video.wan_rows import Chunk, attend, wan_node
from sanakit.ops.conv3x3x3 import HISTORY

BAND_VALUES = 2 << 20  # of an activation in a band on a CPU: 8 MB of float32
MANY_VALUES = 256 << 20  # on other devices
LEAST_ROWS = 4  # of the widest activation in a band: the side of the kernel's tiles
CHUNK_FRAMES = 16  # of a long clip that are handled at a time, where the caller does not say
_BANDS = 8  # activations of a band that are in memory at once: measured, 4 to 8.6
_OVERHEAD = 50 << 20  # bytes: weights that the kernel transforms, and its tiles
_FLOAT = 4  # bytes


class ClipEncoderLayers(Protocol):
    """The layers of an encoder, to be run on rows."""

    conv_in: CausalConv
    down_blocks: nn.ModuleList
    mid_block: MidBlock
    norm_out: ClipNorm
    conv_out: CausalConv


class ClipDecoderLayers(Protocol):
    """The layers of a decoder, to be run on rows."""

    conv_in: CausalConv
    mid_block: MidBlock
    up_blocks: nn.ModuleList
    norm_out: ClipNorm
    conv_out: CausalConv


class VideoAutoencoder(Protocol):
    """The part of a `WanVAE` that streams use."""

    quant_conv: CausalConv
    post_quant_conv: CausalConv

    @property
    def config(self) -> WanVAEConfig:
        """Its sizes."""
        ...

    def check_clip(self, clip: Tensor, *, first: bool = True) -> ClipEncoderLayers:
        """Return the encoder, or raise for clips that do not fit."""
        ...

    def check_latents(self, latents: Tensor) -> ClipDecoderLayers:
        """Return the decoder, or raise for latents that do not fit."""
        ...


class Stream:
    """One half of an autoencoder at work on a clip: its nodes, with what they keep from chunk to chunk."""

    def __init__(self, parts: Iterable[Node | FrameAttention], chunk: Chunk) -> None:
        self.chunk, self.scratch = chunk, Scratch()
        self.groups: list[list[Node]] = [[]]
        self.attentions: list[FrameAttention] = []
        for part in parts:
            if isinstance(part, FrameAttention):
                self.attentions.append(part)
                self.groups.append([])
            else:
                self.groups[-1].append(part)

    def push(self, x: Tensor, limit: int, *, final: bool = False) -> Iterator[Tensor]:
        """Take the next chunk B C T H W; yield the rows of its result from the top, B T' R W C'.

        limit: values of an activation in a band. final: no chunk follows.
        """
        self.chunk.final = final
        rows = x.permute(0, 2, 3, 4, 1).flatten(0, 1)  # N H W C
        for nodes, attention in zip(self.groups[:-1], self.attentions, strict=True):
            rows = whole_map(push(rows, nodes, limit, self.scratch), rows)
            attend(rows, attention)
        for band in push(rows, self.groups[-1], limit, self.scratch):
            yield self.chunk.frames(band)
        self.chunk.first = False


@torch.no_grad()
def encode(model: VideoAutoencoder, clip: Tensor, chunk: int | None = None) -> Tensor:
    """Do what `WanVAE.encode` does, in chunks; chunk: frames at a time after the first (None: automatic)."""
    step, frames = model.config.frame_rule.per_latent, clip.shape[2]
    stream = _encoder_stream(model, clip)
    model.config.frame_rule.check_chunk(chunk, latents=False)
    pieces = clip.split(chunk_sizes(frames, chunk or _automatic(frames, clip.shape[3], step)), dim=2)
    return _joined([_encoded(model, stream, piece, piece is pieces[-1]) for piece in pieces])


@torch.no_grad()
def decode(model: VideoAutoencoder, latents: Tensor, chunk: int | None = None) -> Tensor:
    """Do what `WanVAE.decode` does, in chunks; chunk: latents at a time after the first (None: automatic)."""
    config, rule, count = model.config, model.config.frame_rule, latents.shape[2]
    stream = _decoder_stream(model, latents)
    rule.check_chunk(chunk, latents=True)
    height, width = (side * config.compression for side in latents.shape[3:])
    clip = latents.new_empty(len(latents), 3, rule.frames(count), height, width)
    automatic = -(-_automatic(rule.frames(count), height, rule.per_latent) // rule.per_latent)
    pieces = latents.split(chunk_sizes(count, chunk or automatic), dim=2)
    start = 0
    for piece in pieces:
        start += _decode_into(clip[:, :, start:], model, stream, piece, final=piece is pieces[-1])
    return clip


@torch.no_grad()
def encode_stream(model: VideoAutoencoder, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Do what `WanVAE.encode_stream` does."""
    stream, shape = None, None
    for clip in chunks:
        if stream is None:
            stream, shape = _encoder_stream(model, clip), clip.shape
        else:
            model.check_clip(clip, first=False)
            check_alike(clip.shape, shape)
        yield _encoded(model, stream, clip, final=False)


@torch.no_grad()
def decode_stream(model: VideoAutoencoder, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Do what `WanVAE.decode_stream` does."""
    stream, shape = None, None
    for latents in chunks:
        model.check_latents(latents)
        if stream is None:
            stream, shape = _decoder_stream(model, latents), latents.shape
        check_alike(latents.shape, shape)
        yield _drawn(model, stream, latents)


@torch.no_grad()
def decode_next(
    model: VideoAutoencoder, latents: Tensor, past: Sequence[Tensor | None] | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Do what `WanVAE.decode_next` does. past: the frames that each node keeps."""
    stream = _decoder_stream(model, latents)
    for history, kept in zip(stream.chunk.histories, past or (), strict=bool(past)):
        history.kept = None if kept is None else kept.clone()
    stream.chunk.first = past is None
    clip = _drawn(model, stream, latents)
    return clip, [history.kept for history in stream.chunk.histories]


def _drawn(model: VideoAutoencoder, stream: Stream, latents: Tensor) -> Tensor:
    """Return the frames of a stream's next chunk of latents, B 3 T H W."""
    rule = model.config.frame_rule
    frames = rule.per_latent * latents.shape[2] + (1 - rule.per_latent if stream.chunk.first else 0)
    height, width = (side * model.config.compression for side in latents.shape[3:])
    clip = latents.new_empty(len(latents), 3, frames, height, width)
    _decode_into(clip, model, stream, latents, final=False)
    return clip


def decode_bytes(
    config: WanVAEConfig, latents: int, height: int, width: int, chunk: int | None = None
) -> int:
    """Do what `WanVAE.decode_bytes` does."""
    rule = config.frame_rule
    frames = rule.frames(latents)
    if chunk is None:
        own = _automatic(frames, height, rule.per_latent)
        some, given = -(-own // rule.per_latent), frames
    else:
        some, given = min(chunk, latents), min(rule.per_latent * chunk, frames)
    coarse = _FLOAT * some * (height // config.compression) * (width // config.compression)
    whole = chunk is None and some >= latents
    work = _work(config, _decoder_kept(config), height, width, some, whole=whole)
    return 3 * _FLOAT * given * height * width + 2 * config.widths[-1] * coarse + work


def encode_bytes(config: WanVAEConfig, frames: int, height: int, width: int) -> int:
    """Do what `WanVAE.encode_bytes` does."""
    rule = config.frame_rule
    some = -(-_automatic(frames, height, rule.per_latent) // rule.per_latent)
    coarse = _FLOAT * some * (height // config.compression) * (width // config.compression)
    whole = some >= rule.latents(frames)
    work = _work(config, _encoder_kept(config), height, width, some, whole=whole)
    return 3 * _FLOAT * frames * height * width + 2 * config.widths[-1] * coarse + work


class Kept(NamedTuple):
    """Tensors that a layer keeps: `rows` rows of all frames of a chunk, `frames` whole frames between chunks.

    side: pixels of a place, along one side. rate: frames of a latent.
    """

    channels: int
    side: int
    rate: int
    rows: int
    frames: int


def _work(
    config: WanVAEConfig, layers: Iterable[Kept], height: int, width: int, some: int, *, whole: bool
) -> int:
    """Return the bytes of a stream at work on chunks of `some` latents. whole: there is one chunk."""
    values = 0
    for layer in layers:
        columns = width // layer.side
        values += layer.channels * columns * layer.rows * (layer.rate * some + HISTORY)
        values += 0 if whole else layer.channels * columns * (height // layer.side) * layer.frames
    band = max(BAND_VALUES, LEAST_ROWS * config.frame_rule.per_latent * some * width * config.widths[0])
    return _FLOAT * (values + _BANDS * band) + _OVERHEAD


def _decoder_kept(config: WanVAEConfig) -> Iterator[Kept]:
    widths, side, rate = config.widths[::-1], config.compression, 1
    yield Kept(config.latent_channels, side, rate, 2, HISTORY)
    for _ in range(2):
        yield from _block_kept(widths[0], widths[0], side, rate)
    came = widths[0]
    for i, width in enumerate(widths):
        for own in (came, *[width] * config.depth):
            yield from _block_kept(own, width, side, rate)
        if i < len(config.halve_time):
            doubled = config.halve_time[-1 - i]
            rate *= 2 if doubled else 1
            yield Kept(width, side, rate, 2, HISTORY if doubled else 0)
            side, came = side // 2, width // 2
    yield Kept(widths[-1], side, rate, 2, HISTORY)


def _encoder_kept(config: WanVAEConfig) -> Iterator[Kept]:
    side, rate, came = 1, config.frame_rule.per_latent, config.width
    yield Kept(3, side, rate, 2, HISTORY)
    for i, width in enumerate(config.widths):
        for own in (came, *[width] * (config.depth - 1)):
            yield from _block_kept(own, width, side, rate)
        if i < len(config.halve_time):
            yield Kept(width, side, rate, 2, 0)
            side *= 2
            if config.halve_time[i]:
                yield Kept(width, side, rate, 0, 1)
                rate //= 2
        came = width
    for _ in range(2):
        yield from _block_kept(came, came, side, rate)
    yield Kept(came, side, rate, 2, HISTORY)


def _block_kept(width: int, out_width: int, side: int, rate: int) -> Iterator[Kept]:
    yield Kept(width, side, rate, 2, HISTORY)  # of x, which waits for the result
    yield Kept(out_width, side, rate, 2, HISTORY)


def _encoded(model: VideoAutoencoder, stream: Stream, clip: Tensor, final: bool) -> Tensor:
    """Return the mode of the latents of a stream's next chunk."""
    limit = values_of_band(model.config, clip, clip.shape[2], clip.shape[4])
    bands = list(stream.push(clip, limit, final=final))
    return _joined(bands, axis=2)[..., : model.config.latent_channels].permute(0, 4, 1, 2, 3)


def _decode_into(
    clip: Tensor, model: VideoAutoencoder, stream: Stream, latents: Tensor, *, final: bool
) -> int:
    """Draw a stream's next chunk of latents at the beginning of a clip; return its number of frames."""
    frames, top = model.config.frame_rule.per_latent * latents.shape[2], 0
    for band in stream.push(latents, values_of_band(model.config, clip, frames, clip.shape[4]), final=final):
        frames, bottom = band.shape[1], top + band.shape[2]
        torch.clamp(band.permute(0, 4, 1, 2, 3), -1, 1, out=clip[:, :, :frames, top:bottom])
        top = bottom
    return frames


def _joined(pieces: list[Tensor], axis: int = 2) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=axis)


def _automatic(frames: int, height: int, step: int) -> int:
    """Return the frames of a chunk that take the least memory, all or few; height: of an image."""
    return frames if 2 * frames <= height else max(1, CHUNK_FRAMES // step) * step


def values_of_band(config: WanVAEConfig, x: Tensor, frames: int, width: int) -> int:
    """Return how many values an activation of a band may have. frames, width: of the chunk, in pixels."""
    least = LEAST_ROWS * len(x) * frames * width * config.widths[0]
    return max(least, BAND_VALUES if x.device.type == "cpu" else MANY_VALUES)


def _encoder_stream(model: VideoAutoencoder, clip: Tensor) -> Stream:
    encoder, chunk = model.check_clip(clip), Chunk(len(clip))
    first, attention, second = middle_of(encoder.mid_block)
    before = [encoder.conv_in, *encoder.down_blocks, first]
    parts = [
        *(wan_node(module, chunk) for module in before),
        *(attention, wan_node(second, chunk), wan_node(encoder.conv_out, chunk, norm=encoder.norm_out)),
        wan_node(model.quant_conv, chunk),
    ]
    return Stream(parts, chunk)


def _decoder_stream(model: VideoAutoencoder, latents: Tensor) -> Stream:
    decoder, chunk = model.check_latents(latents), Chunk(len(latents))
    first, attention, second = middle_of(decoder.mid_block)
    steps = [
        layer for stage in decoder.up_blocks for layers in stage.children() for layer in layers.children()
    ]
    parts = [
        *(wan_node(module, chunk) for module in (model.post_quant_conv, decoder.conv_in, first)),
        attention,
        *(wan_node(module, chunk) for module in (second, *steps)),
        wan_node(decoder.conv_out, chunk, norm=decoder.norm_out),
    ]
    return Stream(parts, chunk)


def middle_of(block: MidBlock) -> tuple[nn.Module, FrameAttention, nn.Module]:
    """Return the parts of the coarsest block: before its attention, this, and behind it."""
    attention = block.attentions[0]
    assert isinstance(attention, FrameAttention)
    return block.resnets[0], attention, block.resnets[1]
