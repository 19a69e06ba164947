"""The blocks of SANA-WM: SANA-Video's, with attention that sees cameras, and rays added after it.

x += gate * attn(norm(x)); x += plucker_proj(rays); x += cross_attn(x, text); x += gate * mlp(norm(x)). Time
modulates norms and gates of the first and the last, of each frame by itself.
Shapes: B batch, T frames, S tokens of a frame, N = T*S, D width, L text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sanakit.models.layers import CrossAttention, Linear, RMSNorm, TextKeysValues, branches
from sanakit.models.video.sana_video_blocks import ClipFFN
from sanakit.models.world.attention import (
    DeltaAttention,
    SoftmaxAttention,
    State,
    WorldView,
    repeated,
    second,
)
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.rays import for_batch
from sanakit.ops.modulation import modulated_norm

_TEXT_EPS = 1e-6  # of the norms in attention to text, which SANA's other models have at 1e-5


@dataclass(frozen=True, slots=True)
class WorldBlockState:
    """The past of one block: all that the next chunk needs of the frames before it."""

    attention: State
    last: Tensor  # of the last frame, before its convolution over time: B S D

    def second(self) -> WorldBlockState:
        """Return the past of the second of two clips."""
        return WorldBlockState(second(self.attention), self.last[1:])


class WorldBlock(nn.Module):
    """Self-attention with cameras, Plücker coordinates, cross-attention and Mix-FFN."""

    def __init__(self, config: SanaWMConfig, number: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width))
        nn.init.normal_(self.scale_shift_table, std=config.width**-0.5)
        self.plucker_proj = Linear(config.width, config.width) if config.has_plucker(number) else None
        self.attn = SoftmaxAttention(config) if config.is_softmax(number) else DeltaAttention(config)
        self.cross_attn = CrossAttention(config.width, config.cross_heads, config.qk_norm)
        self.cross_attn.q_norm = RMSNorm(config.width, _TEXT_EPS)
        self.cross_attn.k_norm = RMSNorm(config.width, _TEXT_EPS)
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
        added: Tensor | None,
    ) -> Tensor:
        """B N D -> B N D, for training. modulation: B or B*T, 6D; caption: B L D; mask: B L, true where real.

        added: what `along_rays` returned.
        """
        (shift, scale, gate), mlp = branches(self.scale_shift_table, modulation)
        # A time for each frame modulates frames, one for each clip clips: rows of the modulation, n N/n D.
        rows = x.reshape(len(modulation), -1, x.shape[-1])
        own, _ = self.attn(modulated_norm(rows, scale, shift).view(x.shape), view, None)
        x = torch.addcmul(rows, own.view(rows.shape), gate).view(x.shape)
        if added is not None:
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
