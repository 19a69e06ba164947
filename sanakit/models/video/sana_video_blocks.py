"""The blocks of SANA-Video: SANA's, with rotated linear attention and a convolution over time.

Attention is over all tokens of a clip. The Mix-FFN works frame by frame, then each frame takes in its two
neighbours. A time may be given for each frame: frames are then the samples that SANA's layers modulate.

In block-causal form (LongSANA) a clip comes in chunks. A chunk attends to itself and to all before it; its
first frame takes in the frame before, its last one nothing of the next chunk. For that a block keeps its
`BlockState` of the past, which does not grow with the clip.

Each branch has two ways, as in `models/layers.py`: plain and differentiable; in place, by bands of tokens.
Shapes: B batch, T frames, S = H*W tokens of a frame, N = T*S, D width, h heads, d head width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sanakit.models.layers import (
    CrossAttention,
    Linear,
    MixFFN,
    Modulation,
    RMSNorm,
    TextKeysValues,
    band,
    branches,
    few_samples,
)
from sanakit.models.sana import SanaConfig
from sanakit.ops.linear import linear
from sanakit.ops.modulation import add_gated_, modulated_norm
from sanakit.ops.rotary_linear_attention import RotarySums, rotary_attend, rotary_sums

_TEXT_EPS = 1e-6  # of the norms in attention to text from SANA-WM on; SANA's other models have 1e-5


class GridPart(Protocol):
    """The surroundings of the tokens at hand, where they are a part of a clip (`split/transformer.py`)."""

    def total(self, sums: RotarySums) -> RotarySums:
        """Return the sums over the tokens of all parts."""
        ...

    def around(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the rows above and below the part, n W D each; None: there are none. x: n S D, its own."""
        ...

    def beside(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the frames before and behind the part, B S D each; None: there are none."""
        ...


@dataclass(frozen=True, slots=True)
class ClipGrid:
    """The tokens of the frames at hand: how many each frame has, and the rotation of each."""

    height: int  # H, in tokens
    width: int
    rotation: Tensor  # T S d/2, complex
    part: GridPart | None = None  # of a larger grid; None: it is the whole

    @property
    def frames(self) -> int:
        """T."""
        return len(self.rotation)


@dataclass(frozen=True, slots=True)
class BlockState:
    """The past of one block: all that the next chunk needs of the frames before it."""

    sums: RotarySums  # of all of them: B h d d and B h d
    last: Tensor  # of the last frame alone, before its convolution over time: B S D


class ClipSelfAttention(nn.Module):
    """Multi-head ReLU linear attention over all tokens of a clip, positions in its numerator
    (`blocks.N.attn`)."""

    def __init__(self, width: int, head_dim: int, qk_norm: bool) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width) if qk_norm else nn.Identity()
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, grid: ClipGrid, chunks: Sequence[int]) -> Tensor:
        """B N D -> B N D, for training. chunks: how many frames each chunk has, T in all."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = self.q_norm(query), self.k_norm(key)
        tokens = [frames * grid.height * grid.width for frames in chunks]
        rotation = grid.rotation.flatten(0, 1).split(tokens)
        parts = (self._heads(part).split(tokens, dim=1) for part in (query, key, value))
        sums, outs = None, []
        for own_query, own_key, own_value, turns in zip(*parts, rotation, strict=True):
            sums = rotary_sums(own_key, own_value, turns).plus(sums)
            outs.append(rotary_attend(own_query, sums, turns))
        out = self.proj(torch.cat(outs, dim=1).flatten(2).to(x.dtype))
        return out.clamp(-65504, 65504) if out.dtype == torch.float16 else out

    def add_(self, x: Tensor, modulation: Modulation, grid: ClipGrid, past: RotarySums | None) -> RotarySums:
        """Add the gated branch of the modulated tokens to x (B*T S D) in place; the frames are one chunk.

        modulation: 1 or B*T or more, 1 D each. past: sums of earlier chunks. Returns them with this chunk's.
        Bands of tokens are read twice: for the sums of their keys and values, then for their queries.
        """
        third, found = self.qkv.out_features // 3, []
        for sample, start in enumerate(range(0, len(x), grid.frames)):
            clip = x[start : start + grid.frames]
            own = [part if len(part) == 1 else part[start : start + grid.frames] for part in modulation]
            pieces = list(_pieces(clip, (own[0], own[1], own[2]), grid.rotation, 3 * third))
            before = None if past is None else RotarySums(*(part[sample : sample + 1] for part in past))
            sums = before if grid.part is None else None  # else the parts' own sums are added up first
            if len(pieces) == 1:  # nothing to come back to: one norm and one product for all three
                tokens, turns, given = pieces[0]
                query, key, value = self.qkv.modulated(tokens, given).chunk(3, dim=-1)
                sums = self._sums(key, value, turns).plus(sums)
                if grid.part is not None:
                    sums = grid.part.total(sums).plus(before)
                self.proj.add_to(tokens, self._attend(query, sums, turns), given[2])
            else:
                for tokens, turns, given in pieces:
                    key, value = self.qkv.modulated(tokens, given, slice(third, None)).chunk(2, dim=-1)
                    sums = self._sums(key, value, turns).plus(sums)
                assert sums is not None
                if grid.part is not None:
                    sums = grid.part.total(sums).plus(before)
                for tokens, turns, given in pieces:
                    query = self.qkv.modulated(tokens, given, slice(third))
                    self.proj.add_to(tokens, self._attend(query, sums, turns), given[2])
            found.append(sums)
        return RotarySums(*map(torch.cat, zip(*found, strict=True)))

    def _sums(self, key: Tensor, value: Tensor, turns: Tensor) -> RotarySums:  # n s D each, of one clip
        key, value = (self._heads(part).flatten(0, 1)[None] for part in (self.k_norm(key), value))
        return rotary_sums(key, value, turns.flatten(0, 1))

    def _attend(self, query: Tensor, sums: RotarySums, turns: Tensor) -> Tensor:  # n s D of one clip
        heads = self._heads(self.q_norm(query)).flatten(0, 1)[None]
        out = rotary_attend(heads, sums, turns.flatten(0, 1))
        return out.to(query.dtype).flatten(2).view(query.shape)

    def _heads(self, x: Tensor) -> Tensor:  # ... D -> ... h d
        return x.unflatten(-1, (-1, self.head_dim))


class ClipFFN(MixFFN):
    """A Mix-FFN of single frames, as its parent, whose results are mixed over time (`blocks.N.mlp`)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__(width, ratio)
        self.t_conv = nn.Conv2d(width, width, (3, 1), padding=(1, 0), bias=False)

    def over_time(self, y: Tensor, before: Tensor | None, behind: Tensor | None = None) -> Tensor:
        """Return y plus its convolution over the frames of a chunk, B T S D.

        y: of the Mix-FFN. before: the frame before the chunk, B S D; None: zeros. behind: that behind it, if
        y is a part of a chunk; None: zeros.
        """
        past, now, future = self.t_conv.weight[..., 0].unbind(-1)  # D D each
        out = y + linear(y, now)
        if before is not None:
            out[:, 0] += linear(before.to(y.dtype), past)
        if behind is not None:
            out[:, -1] += linear(behind.to(y.dtype), future)
        if y.shape[1] > 1:
            out[:, 1:] += linear(y[:, :-1], past)
            out[:, :-1] += linear(y[:, 1:], future)
        return out

    def over_chunks(self, y: Tensor, chunks: Sequence[int], before: Tensor | None = None) -> Tensor:
        """Return `over_time` of frames in chunks, B T S D. before: the frame before the first of them."""
        parts = []
        for chunk in y.split(list(chunks), dim=1):
            parts.append(self.over_time(chunk, before))
            before = chunk[:, -1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def clip(self, x: Tensor, grid: ClipGrid, chunks: Sequence[int]) -> Tensor:
        """B N D -> B N D, for training. chunks: how many frames each chunk has, T in all."""
        frames = self(x.reshape(-1, grid.height * grid.width, x.shape[-1]), grid.height, grid.width)
        return self.over_chunks(frames.unflatten(0, (len(x), -1)), chunks).view(x.shape)

    def add_clip_(
        self,
        x: Tensor,
        modulation: Modulation,
        grid: ClipGrid,
        before: Tensor | None,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Add the gated branch of the modulated tokens to x (B*T S D) in place.

        before: as for `over_time`. chunks: as for `clip`; None: one. Returns `before` of the next chunk.
        """
        y, first = torch.empty_like(x), 0
        values = grid.height * grid.width * self.inverted_conv.out_features
        edges = (None, None) if grid.part is None else grid.part.around(x)
        for frames, own in few_samples(x, modulation, values):
            done, last = 0, first + len(frames)
            above, below = (None if edge is None else edge[first:last] for edge in edges)
            for hidden in self._hidden(frames, own, grid, above, below):
                part = self.point_conv.product(hidden)
                y[first:last, done : done + part.shape[1]] = part
                done += part.shape[1]
            first = last
        clips = y.unflatten(0, (-1, grid.frames))
        if grid.part is None:
            mixed = self.over_chunks(clips, chunks or [grid.frames], before)
        else:
            sides = grid.part.beside(clips[:, 0], clips[:, -1])
            mixed = self.over_time(clips, before if sides[0] is None else sides[0], sides[1])
        add_gated_(x, mixed.flatten(0, 1), modulation[2])
        return clips[:, -1].clone()

    def _hidden(
        self, x: Tensor, modulation: Modulation, grid: ClipGrid, above: Tensor | None, below: Tensor | None
    ) -> Iterator[Tensor]:
        """Yield what `point_conv` takes of modulated frames n S D, band by band; see `MixFFN.bands`.

        above, below: rows around them, n W D. With these the rows are one band: they are few.
        """
        if above is None and below is None:
            yield from self.bands(x, modulation, grid.height, grid.width)
            return
        rows = torch.cat([part for part in (above, x, below) if part is not None], dim=1)
        wide = self.inverted_conv.modulated(rows, modulation).unflatten(1, (-1, grid.width))
        yield self._gated(wide, above=int(above is not None), below=int(below is not None))


class ClipBlock(nn.Module):
    """Linear self-attention, cross-attention and Mix-FFN; time modulates the first and the last."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width))
        nn.init.normal_(self.scale_shift_table, std=config.width**-0.5)
        self.attn = ClipSelfAttention(config.width, config.head_dim, config.qk_norm)
        self.cross_attn = CrossAttention(config.width, config.cross_heads, config.qk_norm)
        self.mlp = ClipFFN(config.width, config.mlp_ratio)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        caption: Tensor,
        mask: Tensor | None,
        grid: ClipGrid,
        chunks: Sequence[int],
    ) -> Tensor:
        """B N D -> B N D, for training. modulation: B or B*T, 6D; caption: B L D; mask: B L, true where real.

        chunks: how many frames each chunk has, T in all.
        """
        (shift, scale, gate), mlp = branches(self.scale_shift_table, modulation)
        # A time for each frame modulates frames, one for each clip clips: rows of the modulation, n N/n D.
        rows = x.reshape(len(modulation), -1, x.shape[-1])
        own = self.attn(modulated_norm(rows, scale, shift).view(x.shape), grid, chunks)
        x = torch.addcmul(rows, own.view(rows.shape), gate).view(x.shape)
        x = x + self.cross_attn(x, *self.cross_attn.keys_values(caption), mask)
        shift, scale, gate = mlp
        rows = x.view(rows.shape)
        y = self.mlp.clip(modulated_norm(rows, scale, shift).view(x.shape), grid, chunks)
        return torch.addcmul(rows, y.view(rows.shape), gate).view(x.shape)

    def sample(
        self,
        x: Tensor,
        modulation: Tensor,
        prompts: list[TextKeysValues],
        grid: ClipGrid,
        past: BlockState | None = None,
    ) -> Tensor:
        """Return `forward` of prepared prompts and of one chunk, without gradients, in place.

        modulation: 1 for all, or one for each frame of each prompt's sample, 6D. past: what `extend` returned
        of the chunks before. With several prompts per sample, x is repeated here; up to this point they share
        it, and the modulation of the first of them.
        """
        return self.extend(x, modulation, prompts, grid, past)[0]

    def extend(
        self,
        x: Tensor,
        modulation: Tensor,
        prompts: list[TextKeysValues],
        grid: ClipGrid,
        past: BlockState | None = None,
    ) -> tuple[Tensor, BlockState]:
        """Do as `sample`; return its tokens and the state for the next chunk, too."""
        frames = (-1, grid.height * grid.width, x.shape[-1])
        own, mlp = branches(self.scale_shift_table, modulation)
        sums = self.attn.add_(x.view(frames), own, grid, past.sums if past else None)
        if (repeats := sum(prompt.count for prompt in prompts) // len(x)) > 1:
            x = x.repeat(repeats, 1, 1)
            sums = RotarySums(*(torch.cat([part] * repeats) for part in sums))
        self.cross_attn.add_(x, prompts)
        last = self.mlp.add_clip_(x.view(frames), mlp, grid, past.last if past else None)
        return x, BlockState(sums, last)


def spread_evenly(depth: int, share: float) -> tuple[int, ...]:
    """Return the numbers of so large a share of the blocks, from 0: at least one, the last one among them."""
    count = max(1, int(depth * share))
    return tuple(int((number + 1) * depth / count) - 1 for number in range(count))


def text_attention(config: SanaConfig) -> CrossAttention:
    """Return a block's attention to text, as SANA-WM and later models have it."""
    attention = CrossAttention(config.width, config.cross_heads, config.qk_norm)
    attention.q_norm, attention.k_norm = (RMSNorm(config.width, _TEXT_EPS) for _ in range(2))
    return attention


def _pieces(
    clip: Tensor, modulation: Modulation, rotation: Tensor, values: int
) -> Iterator[tuple[Tensor, Tensor, Modulation]]:
    """Yield bands of a clip's tokens (T S D), n s D each, their rotations and their modulation.

    values: that each token makes. A band has whole frames, or tokens of one frame.
    """
    first = 0
    for frames, own in few_samples(clip, modulation, clip.shape[1] * values):
        turns = rotation[first : first + len(frames)]
        first += len(frames)
        step = band(frames, 1, len(frames) * values)
        for tokens, part in zip(frames.split(step, dim=1), turns.split(step, dim=1), strict=True):
            yield tokens, part, own
