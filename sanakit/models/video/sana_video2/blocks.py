"""The blocks of SANA-Video 2.0: gated self-attention, attention to text, and a SwiGLU feed-forward.

A block adds to the sum of its group (`residuals.py`) and never sees a plain residual stream:
    h = mix of sources;  d = gate * attn(norm(h));  d += cross_attn(h + d, text);  sum += d
    h = mix of sources;  sum += gate * mlp(norm(h))
Time modulates norms and gates, of each frame by itself where frames have times of their own. There is no
convolution: positions come from rotations in self-attention alone.
Shapes: B batch, T frames, N tokens, D width, L text tokens, M hidden width of the feed-forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.layers import Linear, Modulation, TextKeysValues, band, branches
from sanakit.models.video.sana_video2.attention import GatedLinearAttention, GatedSoftmaxAttention
from sanakit.models.video.sana_video2.config import SanaVideo2Config
from sanakit.models.video.sana_video2.residuals import ATTENTION, FEED_FORWARD, DepthSources
from sanakit.models.video.sana_video_blocks import text_attention
from sanakit.ops.modulation import modulated_norm


@dataclass(frozen=True, slots=True)
class Rotations:
    """The rotations of a clip's tokens, N d/2, complex, for the head width of each kind of attention."""

    linear: Tensor
    softmax: Tensor


class SwiGLU(nn.Module):
    """A gated feed-forward, token by token: down(silu(gate(x)) * up(x)) (`blocks.N.mlp`)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)  # M
        self.gate_proj, self.up_proj = Linear(width, hidden), Linear(width, hidden)
        self.down_proj = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """B N D -> B N D."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    def bands(self, x: Tensor) -> Tensor:
        """Do as `forward` without gradients, so few tokens at a time as keep to the caches."""
        out = torch.empty_like(x)
        count = band(x, 1, 2 * len(x) * self.gate_proj.out_features)
        for tokens, to in zip(x.split(count, dim=1), out.split(count, dim=1), strict=True):
            hidden = F.silu(self.gate_proj(tokens), inplace=True).mul_(self.up_proj(tokens))
            to.copy_(self.down_proj(hidden))
        return out


class Video2Block(nn.Module):
    """One block; both ways through it change the sources they are given."""

    def __init__(self, config: SanaVideo2Config, number: int) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = nn.Parameter(torch.empty(6, width))
        nn.init.normal_(self.scale_shift_table, std=width**-0.5)
        self.is_softmax = number in config.softmax_blocks
        self.attn = (
            GatedSoftmaxAttention(width, config.softmax_head_dim)
            if self.is_softmax
            else GatedLinearAttention(width, config.head_dim)
        )
        self.cross_attn = text_attention(config)
        self.mlp = SwiGLU(width, config.mlp_ratio)

    def forward(
        self,
        sources: DepthSources,
        modulation: Tensor,
        caption: Tensor,
        mask: Tensor | None,
        rotations: Rotations,
    ) -> Tensor:
        """Add both layers, for training; return the sum of the group so far, B N D.

        modulation: B or B*T, 6D; caption: B L D; mask: B L, true where real.
        """
        own, mlp = branches(self.scale_shift_table, modulation)
        hidden = sources.mixed(ATTENTION)
        delta = self._attended(hidden, own, rotations)
        keys_values = self.cross_attn.keys_values(caption)
        sources.add(delta + self.cross_attn(hidden + delta, *keys_values, mask))
        hidden = sources.mixed(FEED_FORWARD)
        return sources.add(_gated(self.mlp(_normed(hidden, mlp)), mlp))

    def sample(
        self, sources: DepthSources, modulation: Tensor, prompts: list[TextKeysValues], rotations: Rotations
    ) -> Tensor:
        """Do as `forward` with prepared prompts, without gradients.

        modulation: 1 for all, or one for each frame of each prompt's sample, 6D. With several prompts per
        sample, the sources are repeated here; up to this point the prompts share them, and the modulation of
        the first of them.
        """
        own, mlp = branches(self.scale_shift_table, modulation)
        hidden = sources.mixed(ATTENTION)
        repeats = sum(prompt.count for prompt in prompts) // len(hidden)
        rows = len(modulation) // repeats if len(modulation) > 1 else 1
        shift, scale, gate = own
        delta = self._attended(hidden, (shift[:rows], scale[:rows], gate[:rows]), rotations)
        if repeats > 1:
            hidden, delta = hidden.repeat(repeats, 1, 1), delta.repeat(repeats, 1, 1)
            sources.repeat(repeats)
        hidden += delta
        self.cross_attn.add_(hidden, prompts, to=delta)
        sources.add(delta)
        hidden = sources.mixed(FEED_FORWARD)
        return sources.add(_gated(self.mlp.bands(_normed(hidden, mlp)), mlp))

    def _attended(self, hidden: Tensor, modulation: Modulation, rotations: Rotations) -> Tensor:
        """Return the gated self-attention of the modulated tokens, B N D."""
        turns = rotations.softmax if self.is_softmax else rotations.linear
        return _gated(self.attn(_normed(hidden, modulation), turns), modulation)


def _normed(x: Tensor, modulation: Modulation) -> Tensor:
    """B N D -> B N D: the modulated norm. modulation: 1, B or B*T rows, for as many runs of tokens."""
    shift, scale, _ = modulation
    return modulated_norm(_rows(x, scale), scale, shift).view(x.shape)


def _gated(x: Tensor, modulation: Modulation) -> Tensor:
    """B N D -> B N D: times the gate; modulation as for `_normed`."""
    gate = modulation[2]
    return (_rows(x, gate) * gate).view(x.shape)


def _rows(x: Tensor, part: Tensor) -> Tensor:
    return x if len(part) == 1 else x.reshape(len(part), -1, x.shape[-1])
