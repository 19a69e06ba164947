"""SANA-Video on several processes that share one clip: each has some frames, and some rows of these.

Every process holds the model's weights and the whole latents, which are small. Of a step it computes its own
part of the tokens, and learns from the others, block by block:
- linear attention: the sums over all tokens, B h d d and B h d, are added up over all processes;
- Mix-FFN, 3x3: one row of tokens from the processes above and below;
- Mix-FFN, over time: one frame of its rows from the processes before and behind.
Queries, attention to text, norms and products are of single tokens. Positions are those in the clip. In the
end the parts of the velocity are put together everywhere, so that the solver's steps are the same.

A causal model's clip is cut into rows alone: every process keeps the state of its rows.
Source: ours; the arithmetic is that of `sana_video_blocks.py`, and equal to it up to the order of sums.
Shapes: B clips, C latent channels, T frames, H W sides of the latents, S tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError, SizeError
from sanakit.models.bound import BoundModel
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import ClipState, SanaVideo, SanaVideoConfig
from sanakit.models.video.sana_video_blocks import BlockState, ClipGrid
from sanakit.models.video.split.exchange import Exchange
from sanakit.ops.rotary_linear_attention import RotarySums


@dataclass(frozen=True, slots=True)
class Division:
    """How a clip's grid of tokens is cut: into spans of frames, and each into spans of rows.

    Process k has span k // len(rows) of the frames, and k % len(rows) of the rows.
    """

    frames: tuple[range, ...]
    rows: tuple[range, ...]

    def of(self, rank: int) -> tuple[range, range]:
        """Return the frames and rows of a process."""
        return self.frames[rank // len(self.rows)], self.rows[rank % len(self.rows)]

    def neighbours(self, rank: int) -> tuple[int | None, int | None, int | None, int | None]:
        """Return the processes above, below, before and behind; None at the edges of the clip."""
        span, row = divmod(rank, len(self.rows))
        return (
            rank - 1 if row else None,
            rank + 1 if row + 1 < len(self.rows) else None,
            rank - len(self.rows) if span else None,
            rank + len(self.rows) if span + 1 < len(self.frames) else None,
        )

    def edges(self, columns: int) -> int:
        """Return the tokens that all processes together send in a block, of x and of the Mix-FFN's result.

        columns: tokens of a row.
        """
        count, height = sum(map(len, self.frames)), sum(map(len, self.rows))
        return 2 * columns * ((len(self.rows) - 1) * count + (len(self.frames) - 1) * height)


def divided(world: int, frames: int, rows: int, columns: int, *, causal: bool = False) -> Division:
    """Cut a clip for so many processes: the largest part as small as possible, then the fewest edges.

    frames, rows, columns: of the clip, in tokens. causal: into rows alone. Raises SizeError for more
    processes than it has places to cut at.
    """
    ways = [
        Division(_spans(frames, spans), _spans(rows, world // spans))
        for spans in range(1, world + 1)
        if world % spans == 0 and spans <= frames and world // spans <= rows and (spans == 1 or not causal)
    ]
    if not ways:
        where = f"{rows} rows" if causal else f"{frames} frames of {rows} rows"
        raise SizeError(
            f"{world} processes cannot share a clip of {where} of tokens: start fewer, or draw a larger one."
        )
    return min(ways, key=lambda way: (len(way.frames[-1]) * len(way.rows[-1]), way.edges(columns)))


def _spans(total: int, parts: int) -> tuple[range, ...]:
    """Return so many spans of nearly one length, the longest one last."""
    length, longer = divmod(total, parts)
    stops = [number * length + max(0, number + longer - parts) for number in range(parts + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(stops))


class OwnPart:
    """One process's part of a clip, which the blocks ask for what lies around it; see `GridPart`."""

    def __init__(self, division: Division, exchange: Exchange, width: int) -> None:
        self.division, self.exchange, self.width = division, exchange, width
        self.frames, self.rows = division.of(exchange.rank)
        self.above, self.below, self.before, self.behind = division.neighbours(exchange.rank)

    def latents(self, latents: Tensor, patch: int) -> Tensor:
        """Return the part's own of latents B C T H W. patch: latents of a token, along one side."""
        rows = slice(self.rows.start * patch, self.rows.stop * patch)
        return latents[:, :, self.frames.start : self.frames.stop, rows]

    def times(self, t: float | Tensor, frames: int) -> float | Tensor:
        """Return the times of the part's own frames, if there is one for each of the clip's."""
        if isinstance(t, Tensor) and t.ndim == 2 and t.shape[1] == frames:
            return t[:, self.frames.start : self.frames.stop]
        return t

    def grid(self, whole: ClipGrid) -> ClipGrid:
        """Return the part's own of a clip's grid."""
        turns = whole.rotation.unflatten(1, (whole.height, whole.width))
        own = turns[self.frames.start : self.frames.stop, self.rows.start : self.rows.stop]
        return ClipGrid(len(self.rows), whole.width, own.flatten(1, 2), self)

    def total(self, sums: RotarySums) -> RotarySums:
        """Return the sums over the tokens of all parts."""
        both = torch.cat([sums.products.flatten(1), sums.keys.flatten(1)], dim=1)  # one message
        both = self.exchange.total(both)
        count = sums.products[0].numel()
        return RotarySums(both[:, :count].view_as(sums.products), both[:, count:].view_as(sums.keys))

    def around(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the rows of tokens above and below the part, n W D each; None at the edges of the clip.

        x: n S D, the part's own frames.
        """
        sent = {self.above: x[:, : self.width], self.below: x[:, -self.width :]}
        return self._swapped(sent, self.above, self.below)

    def beside(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the frames before and behind the part, B S D each; None at the ends of the clip.

        first, last: the part's own first and last frames.
        """
        return self._swapped({self.before: first, self.behind: last}, self.before, self.behind)

    def _swapped(
        self, sent: dict[int | None, Tensor], one: int | None, other: int | None
    ) -> tuple[Tensor | None, Tensor | None]:
        came = self.exchange.swapped({peer: part for peer, part in sent.items() if peer is not None})
        return (None if one is None else came[one], None if other is None else came[other])


class SplitVideo(BoundModel[SanaVideo]):
    """A `SanaVideo` whose velocities several processes compute together.

    base: the same weights in every process. exchange: with the others.
    """

    def __init__(self, base: SanaVideo, exchange: Exchange) -> None:
        super().__init__(base)
        self.exchange = exchange

    @property
    def config(self) -> SanaVideoConfig:
        """The sizes of the base."""
        return self.base.config

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
        state: ClipState | None = None,
    ) -> Tensor:
        """Return the whole velocity, in every process; all as for `SanaVideo.velocity`.

        Raises SizeError for a clip that cannot be cut into so many parts, too.
        """
        if guidance is not None:
            raise SettingsError("SANA-Video takes no guidance scale as an input: leave `guidance` out.")
        model, whole = self.base, self.base._grid(latents, state.frames if state else 0)
        part = self._part(whole)
        x, time, modulation, grid = self._begin(latents, t, context, state, whole, part)
        for number, (block, prompts) in enumerate(zip(model.blocks, context.layers, strict=True)):
            x = block.sample(x, modulation, prompts, grid, state.blocks[number] if state else None)
            if after_block is not None:
                after_block(block)
        return self._together(model._unembed(x, time, grid), part)

    @torch.no_grad()
    def extend(
        self,
        state: ClipState | None,
        latents: Tensor,
        context: TextContext,
        t: float | Tensor = 0.0,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> ClipState:
        """Return the state with one more chunk, of this process's rows; all as for `SanaVideo.extend`."""
        whole = self.base._grid(latents, state.frames if state else 0)
        x, _, modulation, grid = self._begin(latents, t, context, state, whole, self._part(whole))
        found: list[BlockState] = []
        for number, (block, prompts) in enumerate(zip(self.base.blocks, context.layers, strict=True)):
            x, own = block.extend(x, modulation, prompts, grid, state.blocks[number] if state else None)
            found.append(own)
            if after_block is not None:
                after_block(block)
        return ClipState((state.frames if state else 0) + whole.frames, whole.height, whole.width, found)

    def _part(self, whole: ClipGrid) -> OwnPart:
        sizes = (whole.frames, whole.height, whole.width)
        division = divided(self.exchange.world, *sizes, causal=self.config.causal)
        return OwnPart(division, self.exchange, whole.width)

    def _begin(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        state: ClipState | None,
        whole: ClipGrid,
        part: OwnPart,
    ) -> tuple[Tensor, Tensor, Tensor, ClipGrid]:
        """Check the arguments and embed this process's part, as `SanaVideo._begin` does with a clip."""
        own, past = part.latents(latents, self.config.patch), state
        if past is not None:  # of whole frames but in its blocks
            if (past.height, past.width) != (whole.height, whole.width):
                raise SettingsError(
                    f"The chunk has {whole.height}x{whole.width} tokens a frame, its state "
                    f"{past.height}x{past.width}: all chunks of a clip have one size."
                )
            past = replace(past, height=len(part.rows))
        x, time, modulation, _ = self.base._begin(own, part.times(t, whole.frames), context, past)
        return x, time, modulation, part.grid(whole)

    def _together(self, own: Tensor, part: OwnPart) -> Tensor:
        """Return the whole velocity of the parts of all processes, B C T H W."""
        patch, division = self.config.patch, part.division
        batch, channels, _, _, width = own.shape
        spans = [division.of(rank) for rank in range(self.exchange.world)]
        shapes: Sequence[Sequence[int]] = [
            (batch, channels, len(frames), patch * len(rows), width) for frames, rows in spans
        ]
        parts = self.exchange.gathered(own, shapes)
        count = len(division.rows)
        stacked = [torch.cat(parts[i : i + count], dim=3) for i in range(0, len(parts), count)]
        return torch.cat(stacked, dim=2)
