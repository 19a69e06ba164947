"""The blocks of SANA-WM: SANA-Video's, with attention that sees cameras, and rays added after it.

x += gate * attn(norm(x)); x += plucker_proj(rays); x += cross_attn(x, text); x += gate * mlp(norm(x)). Time
modulates norms and gates of the first and the last, of each frame by itself.
Shapes: B batch, T frames, S tokens of a frame, N = T*S, D width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from sanakit.models.layers import Linear, TextKeysValues, branches
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import AfterBlock, VideoConfig
from sanakit.models.video.sana_video_blocks import ClipFFN, text_attention
from sanakit.models.world.attention import DeltaAttention, SoftmaxAttention, WorldView
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.rays import for_batch
from sanakit.ops.modulation import modulated_norm

# The state of a block's self-attention: a named tuple of tensors of a batch, or one for each of some chunks.
FrameState = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class WorldBlockState:
    """The past of one block: all that the next chunk needs of the frames before it."""

    attention: FrameState  # as the block's attention returned it
    last: Tensor  # of the last frame, before its convolution over time: B S D

    def second(self) -> WorldBlockState:
        """Return the past of the second of two clips."""
        return WorldBlockState(second(self.attention), self.last[1:])


@dataclass(frozen=True, slots=True)
class ChunkState:
    """The past of a clip in chunks, for every block; from the third chunk on it does not grow."""

    frames: int  # so far
    height: int  # of a frame, in tokens
    width: int
    blocks: list[WorldBlockState]

    @property
    def batch(self) -> int:
        """The number of clips that it is of."""
        return len(self.blocks[0].last)

    def second(self) -> Self:
        """Return the past of the second of two clips, the one with the prompt."""
        return replace(self, blocks=[block.second() for block in self.blocks])


class ChunkedAttention(Protocol):
    """Self-attention over frames in chunks: a module."""

    def __call__(self, x: Tensor, view: WorldView, past: FrameState | None, /) -> tuple[Tensor, FrameState]:
        """B N D -> B N D, and the state with these frames."""
        ...


class FrameBlock(nn.Module):
    """Self-attention over frames in chunks, what rays add, cross-attention and Mix-FFN."""

    def __init__(
        self, config: VideoConfig, attn: ChunkedAttention, plucker_proj: Linear | None = None
    ) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width))
        nn.init.normal_(self.scale_shift_table, std=config.width**-0.5)
        self.plucker_proj, self.attn = plucker_proj, attn
        self.cross_attn = text_attention(config)
        self.mlp = ClipFFN(config.width, config.mlp_ratio)

    def along_rays(self, rays: Tensor | None) -> Tensor | None:
        """Return what this block adds of embedded Plücker coordinates, B N D; None: nothing."""
        return None if rays is None or self.plucker_proj is None else self.plucker_proj(rays)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        caption: Tensor,
        mask: Tensor | None,
        view: WorldView,
        rays: Tensor | None,
    ) -> Tensor:
        """B N D -> B N D, for training. modulation: B or B*T, 6D; caption: B L D; mask: B L, true where real.

        rays: embedded Plücker coordinates, B N D; None: there are none.
        """
        (shift, scale, gate), mlp = branches(self.scale_shift_table, modulation)
        # A time for each frame modulates frames, one for each clip clips: rows of the modulation, n N/n D.
        rows = x.reshape(len(modulation), -1, x.shape[-1])
        own, _ = self.attn(modulated_norm(rows, scale, shift).view(x.shape), view, None)
        x = torch.addcmul(rows, own.view(rows.shape), gate).view(x.shape)
        if (added := self.along_rays(rays)) is not None:
            x = x + added
        x = x + self.cross_attn(x, *self.cross_attn.keys_values(caption), mask)
        shift, scale, gate = mlp
        rows = x.view(rows.shape)
        y = self.mlp.clip(modulated_norm(rows, scale, shift).view(x.shape), view.grid, view.chunks)
        return torch.addcmul(rows, y.view(rows.shape), gate).view(x.shape)

    def sample(
        self,
        x: Tensor,
        modulation: Tensor,
        prompts: list[TextKeysValues],
        view: WorldView,
        added: Tensor | None = None,
        past: WorldBlockState | None = None,
    ) -> Tensor:
        """Return `forward` of prepared prompts and of one chunk, without gradients.

        modulation: 1 for all, or one for each frame of each prompt's sample, 6D. past: what `extend` returned
        of the chunks before. With several prompts per sample, x is repeated here; up to this point they share
        it, and the modulation of the first of them.
        """
        return self.extend(x, modulation, prompts, view, added, past)[0]

    def extend(
        self,
        x: Tensor,
        modulation: Tensor,
        prompts: list[TextKeysValues],
        view: WorldView,
        added: Tensor | None = None,
        past: WorldBlockState | None = None,
    ) -> tuple[Tensor, WorldBlockState]:
        """Do as `sample`; return its tokens and the state for the next chunk, too."""
        view = view.for_batch(len(x))
        (shift, scale, gate), mlp = branches(self.scale_shift_table, modulation)
        frames = x.reshape(len(x) * view.grid.frames, -1, x.shape[-1])
        shift, scale, gate = (part[: len(frames)] for part in (shift, scale, gate))
        normed = modulated_norm(frames, scale, shift).view(x.shape)
        own, state = self.attn(normed, view, past.attention if past else None)
        x = torch.addcmul(frames, own.view(frames.shape), gate).view(x.shape)
        if added is not None:
            x = x + for_batch(added, len(x))
        if (repeats := sum(prompt.count for prompt in prompts) // len(x)) > 1:
            x, state = x.repeat(repeats, 1, 1), repeated(state, repeats)
        self.cross_attn.add_(x, prompts)
        frames = x.view(-1, frames.shape[1], x.shape[-1])
        last = self.mlp.add_clip_(frames, mlp, view.grid, past.last if past else None, view.chunks)
        return x, WorldBlockState(state, last)


class WorldBlock(FrameBlock):
    """A block of SANA-WM, whose self-attention sees cameras."""

    attn: DeltaAttention | SoftmaxAttention

    def __init__(self, config: SanaWMConfig, number: int) -> None:
        attn = SoftmaxAttention(config) if config.is_softmax(number) else DeltaAttention(config)
        plucker_proj = Linear(config.width, config.width) if config.has_plucker(number) else None
        super().__init__(config, attn, plucker_proj)


def run_blocks(
    blocks: Sequence[FrameBlock],
    x: Tensor,
    modulation: Tensor,
    context: TextContext,
    view: WorldView,
    added: Sequence[Tensor | None] | None,
    state: ChunkState | None,
    after_block: AfterBlock | None,
    found: list[WorldBlockState] | None,
) -> Tensor:
    """Pass tokens (B N D) through blocks, without gradients.

    added: what each block adds; None: nothing. found: takes the blocks' states. All else as for
    `FrameBlock.extend` and `SanaWM.velocity`.
    """
    for number, (block, prompts) in enumerate(zip(blocks, context.layers, strict=True)):
        past = state.blocks[number] if state else None
        x, own = block.extend(x, modulation, prompts, view, added[number] if added else None, past)
        if found is not None:
            found.append(own)
        if after_block is not None:
            after_block(block)
    return x


def repeated(state: FrameState, times: int) -> FrameState:
    """Return the state of so many copies of its batch, one after another."""
    return _of_each(state, lambda x: torch.cat([x] * times))


def second(state: FrameState) -> FrameState:
    """Return the state of the second of two clips."""
    return _of_each(state, lambda x: x[1:])


def _of_each(state: FrameState, change: Callable[[Tensor], Tensor]) -> FrameState:
    """Return the state whose tensors are changed, each by itself."""

    def changed(x: Any) -> Any:
        return change(x) if isinstance(x, Tensor) else x and _of_each(x, change)

    values = map(changed, state)
    return type(state)(*values) if hasattr(state, "_fields") else tuple(values)
