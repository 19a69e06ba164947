"""SANA-Streaming's two kinds of self-attention (`blocks.N.attn`).

As SANA-WM's main branch (`models/world/attention.py`): gated delta attention, and softmax attention in every
fourth block, both behind a gate of each channel. Different are the weights: queries and keys have matrices of
their own, stored as convolutions over time, and keys see no neighbouring frames. Of several taps the
published code uses the middle one alone.

Clips may come in chunks: frames of a chunk see each other and those before. The past, as far as the next
chunk needs it, is returned as `DeltaSums` or as keys and values of some chunks.
Shapes: B batch, T frames, S tokens of a frame, N = T*S, D width, h heads, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.layers import Linear, RMSNorm
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.world.attention import KeysValues, WorldView, kept_chunks, seen_tokens
from sanakit.models.world.blocks import FrameState
from sanakit.models.world.delta import delta_attention, frame_gates
from sanakit.ops.gated_delta import wide
from sanakit.ops.linear import linear
from sanakit.ops.rotary_linear_attention import rotated

FIRST_BETA, FIRST_DT, FIRST_GATE = 5.0, -8.0, 1.0  # biases that training begins with


class DeltaSums(NamedTuple):
    """The past of gated delta attention; it does not grow."""

    products: Tensor  # of rotated keys and values, B h d d
    keys: Tensor  # of keys alone, for the denominator, B h d 1


class MiddleTap(nn.Module):
    """A convolution over time of which only the frame itself counts."""

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width, taps))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """... D -> ... D."""
        return linear(x, self.weight[..., self.weight.shape[-1] // 2])


class EditAttention(nn.Module, ABC):
    """The weights and steps that both kinds have."""

    def __init__(self, config: SanaStreamingConfig, taps: int | None) -> None:
        """taps: of queries and keys over time; None: they are plain matrices."""
        super().__init__()
        self.config, width = config, config.width
        self.q, self.k = (
            Linear(width, width, bias=False) if taps is None else MiddleTap(width, taps) for _ in range(2)
        )
        self.v = Linear(width, width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width), RMSNorm(width)
        self.output_gate, self.proj = Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor, view: WorldView, past: FrameState | None) -> tuple[Tensor, FrameState]:
        """B N D -> B N D, and the state with these frames."""
        parts = self.q_norm(self.q(x)), self.k_norm(self.k(x)), self.v(x)
        query, key, value = (wide(part.unflatten(-1, (-1, self.config.head_dim))) for part in parts)
        out, state = self.attend(query, key, value, x, view, past)
        return self.proj((out * F.silu(wide(self.output_gate(x)))).to(x.dtype)), state

    @abstractmethod
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, x: Tensor, view: WorldView, past: FrameState | None
    ) -> tuple[Tensor, FrameState]:
        """Return what queries (B N h d) find, B N D, and the state. x: the tokens that they are of, B N D."""

    @torch.no_grad()
    def init_gates(self) -> None:
        """Set the published first values of the gate, which lets everything pass alike."""
        nn.init.zeros_(self.output_gate.weight)
        nn.init.constant_(self.output_gate.bias, FIRST_GATE)


class EditDeltaAttention(EditAttention):
    """Gated delta attention: a state of constant size instead of keys of the whole past."""

    def __init__(self, config: SanaStreamingConfig) -> None:
        super().__init__(config, taps=1)
        heads = config.width // config.head_dim
        self.beta_proj, self.gate_proj = Linear(config.width, heads), Linear(config.width, heads)
        self.A_log, self.dt_bias = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.zeros(heads))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, x: Tensor, view: WorldView, past: FrameState | None
    ) -> tuple[Tensor, FrameState]:
        """As for both kinds."""
        frames = x.unflatten(1, (view.grid.frames, -1))
        scale = (self.config.head_dim * frames.shape[2]) ** -0.5  # keeps a step bounded
        beta, decay = frame_gates(frames, self.beta_proj, self.gate_proj, self.A_log, self.dt_bias)
        assert past is None or isinstance(past, DeltaSums)
        turns = view.grid.rotation.flatten(0, 1)
        heads = query.relu(), key.relu() * scale, value
        out, products, keys = delta_attention(*heads, turns, beta, decay, view.chunks, past)
        return out, DeltaSums(products, keys)

    @torch.no_grad()
    def init_gates(self) -> None:
        """Set the published first values: gates that forget and discount almost nothing."""
        super().init_gates()
        for layer, bias in ((self.beta_proj, FIRST_BETA), (self.gate_proj, 0.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)
        nn.init.zeros_(self.A_log)
        nn.init.constant_(self.dt_bias, FIRST_DT)


class EditSoftmaxAttention(EditAttention):
    """Softmax attention to its own chunk, the first ones and the last ones before it."""

    def __init__(self, config: SanaStreamingConfig) -> None:
        super().__init__(config, None if config.variant == "bidirectional" else config.softmax_taps)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, x: Tensor, view: WorldView, past: FrameState | None
    ) -> tuple[Tensor, FrameState]:
        """As for both kinds."""
        turns, earlier = view.grid.rotation.flatten(0, 1), past or ()
        query, key, config = rotated(query, turns), rotated(key, turns), self.config
        # Values are a part of nothing larger: they may be kept as they are.
        chunks: tuple[KeysValues, ...] = (*earlier, KeysValues(key, value, None, None))
        keys, values = (
            torch.cat(parts, dim=1) for parts in zip(*((c.key, c.value) for c in chunks), strict=True)
        )
        mask = seen_tokens(view, config.sink_chunks, config.recent_chunks)
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
        )
        return out.transpose(1, 2).flatten(2), kept_chunks(chunks, config.sink_chunks, config.recent_chunks)
