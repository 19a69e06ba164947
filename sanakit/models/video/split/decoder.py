"""Wan 2.1's decoder on several processes that share one clip: each draws rows of every frame, exactly.

The coarse part, with attention over whole frames at an eighth of the sides, is computed by every process.
From there on each has its own rows. At every resolution it takes as many rows of its neighbours as the layers
of that resolution reach, computes them too, and leaves them out of its result. Nothing is blended: the clip
is that of one process up to rounding, chunk after chunk as in `wan_stream.py`.
Source: ours.
Shapes: B clips, C latent channels, T frames, H W pixels, t h w latents, N = frames of all clips, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from math import ceil

import torch
from torch import Tensor, nn

from sanakit.models.dc_ae.rows import Node, Scratch
from sanakit.models.dc_ae.stream import push, whole_map
from sanakit.models.video.frame_rule import check_alike, chunk_sizes
from sanakit.models.video.split.exchange import Exchange
from sanakit.models.video.wan_blocks import CausalConv, CausalResBlock, ClipUp
from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.models.video.wan_rows import Chunk, attend, wan_node
from sanakit.models.video.wan_stream import middle_of, values_of_band
from sanakit.models.video.wan_vae import WanEncoder, WanVAE

CHUNK = 4  # latents along time that are decoded at a time, where the caller does not say


class SplitDecoder(nn.Module):
    """A `WanVAE` whose clips several processes decode together; encoding is each one's own.

    base: the same weights in every process. exchange: with the others. All take the same latents, and all get
    the whole clip. Clips of too few rows to share are decoded by every process whole.
    """

    def __init__(self, base: WanVAE, exchange: Exchange) -> None:
        super().__init__()
        self.base, self.exchange = base, exchange

    @property
    def config(self) -> WanVAEConfig:
        """The sizes of the base."""
        return self.base.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self.base.dtype

    @property
    def encoder(self) -> WanEncoder | None:
        """The base's encoder."""
        return self.base.encoder

    def shares(self, height: int) -> bool:
        """Return whether clips of so many rows of latents are decoded together."""
        least = height // self.exchange.world
        reached = _reaches(self.base)
        return least > 0 and all(least << number >= reach for number, reach in enumerate(reached) if number)

    def decode(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """As `WanVAE.decode`, without gradients."""
        self.config.frame_rule.check_chunk(chunk, latents=True)
        self.base.check_latents(latents)
        pieces = latents.split(chunk_sizes(latents.shape[2], chunk or CHUNK), dim=2)
        return torch.cat([*self.decode_stream(pieces)], dim=2)

    @torch.no_grad()
    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """As `WanVAE.decode_stream`."""
        rows, shape, coming = None, None, iter(chunks)
        for latents in coming:
            self.base.check_latents(latents)
            if shape is None:
                if not self.shares(latents.shape[3]):
                    yield from self.base.decode_stream(chain([latents], coming))
                    return
                rows, shape = _Rows(self.base, latents, self.exchange), latents.shape
            check_alike(latents.shape, shape)
            assert rows is not None
            yield rows.push(latents)

    def decode_next(self, latents: Tensor, past: object | None) -> tuple[Tensor, list[Tensor | None]]:
        """As `WanVAE.decode_next`, by every process whole."""
        return self.base.decode_next(latents, past)

    def encode(self, clip: Tensor, chunk: int | None = None) -> Tensor:
        """As `WanVAE.encode`, by every process."""
        return self.base.encode(clip, chunk)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """As `WanVAE.encode_stream`, by every process."""
        return self.base.encode_stream(chunks)

    def decode_bytes(self, latents: int, height: int, width: int, chunk: int | None = None) -> int:
        """As `WanVAE.decode_bytes`: of a whole clip, more than a part takes."""
        return self.base.decode_bytes(latents, height, width, chunk)

    def encode_bytes(self, frames: int, height: int, width: int) -> int:
        """As `WanVAE.encode_bytes`."""
        return self.base.encode_bytes(frames, height, width)

    def normalise(self, latents: Tensor) -> Tensor:
        """As `WanVAE.normalise`."""
        return self.base.normalise(latents)

    def denormalise(self, latents: Tensor) -> Tensor:
        """As `WanVAE.denormalise`."""
        return self.base.denormalise(latents)


class _Rows:
    """This process's rows of a clip: its nodes by resolution, with what they keep between chunks."""

    def __init__(self, model: WanVAE, latents: Tensor, exchange: Exchange) -> None:
        decoder, self.model, self.exchange = model.check_latents(latents), model, exchange
        self.chunk, self.scratch, height = Chunk(len(latents)), Scratch(), latents.shape[3]
        first, self.attention, _ = middle_of(decoder.mid_block)
        coarse = (model.post_quant_conv, decoder.conv_in, first)
        self.coarse: list[Node] = [wan_node(module, self.chunk) for module in coarse]
        self.levels = [[wan_node(module, self.chunk) for module in level] for level in _levels(model)]
        self.levels[-1].append(wan_node(decoder.conv_out, self.chunk, norm=decoder.norm_out))
        self.reaches = _reaches(model)
        cuts = [number * height // exchange.world for number in range(exchange.world + 1)]
        self.spans = [*pairwise(cuts)]

    def push(self, latents: Tensor) -> Tensor:
        """Draw the next chunk of latents B C t h w; return its whole frames, B 3 T H W."""
        config, rank = self.model.config, self.exchange.rank
        frames = config.frame_rule.per_latent * latents.shape[2]
        limit = values_of_band(config, latents, frames, latents.shape[4] * config.compression)
        self.chunk.final = False
        rows = latents.permute(0, 2, 3, 4, 1).flatten(0, 1)  # N h w C
        rows = whole_map(push(rows, self.coarse, limit, self.scratch), rows)
        attend(rows, self.attention)
        for number, (nodes, reach) in enumerate(zip(self.levels, self.reaches, strict=True)):
            if number == 0:  # of which every process has all rows
                top, bottom = self.spans[rank]
                above, below = min(reach, top), min(reach, rows.shape[1] - bottom)
                rows = rows[:, top - above : bottom + below].contiguous()
            else:
                rows, above, below = self._with_neighbours(rows, reach)
            y = whole_map(push(rows, nodes, limit, self.scratch), rows)
            scale = y.shape[1] // rows.shape[1]
            rows = y[:, scale * above : y.shape[1] - scale * below]
        own = self.chunk.frames(rows).permute(0, 4, 1, 2, 3).clamp(-1, 1)  # B 3 T R W
        self.chunk.first = False
        before, after = own.shape[:3], own.shape[4:]
        shapes = [(*before, (bottom - top) * config.compression, *after) for top, bottom in self.spans]
        return torch.cat(self.exchange.gathered(own, shapes), dim=3)

    def _with_neighbours(self, rows: Tensor, reach: int) -> tuple[Tensor, int, int]:
        """Return the rows between so many of each neighbour, and how many these are above and below."""
        rank, last = self.exchange.rank, self.exchange.world - 1
        sent = {} if rank == 0 else {rank - 1: rows[:, :reach]}
        sent |= {} if rank == last else {rank + 1: rows[:, -reach:]}
        came = self.exchange.swapped(sent)
        parts = [came.get(rank - 1), rows, came.get(rank + 1)]
        joined = torch.cat([part for part in parts if part is not None], dim=1)
        return joined, reach if rank else 0, 0 if rank == last else reach


def _levels(model: WanVAE) -> list[list[nn.Module]]:
    """Return the layers behind attention by the resolution that they begin with; the last convolution is
    left out."""
    decoder = model.decoder
    assert decoder is not None
    second = middle_of(decoder.mid_block)[2]
    found = [
        [layer for layers in stage.children() for layer in layers.children()] for stage in decoder.up_blocks
    ]
    return [[second, *found[0]], *found[1:]]


def _reaches(model: WanVAE) -> list[int]:
    """Return how many rows of its input, above and below, each resolution's layers reach."""
    found: list[int] = []
    for level in _levels(model):
        # a convolution reaches one row; behind the doubling of rows, half a one
        found.append(ceil(sum(2 if isinstance(layer, CausalResBlock) else 0.5 for layer in level)))
        assert all(isinstance(layer, CausalResBlock | ClipUp | CausalConv) for layer in level)
    found[-1] += 1
    return found
