"""SANA-Video 2.0's two kinds of self-attention: linear, and softmax in every fourth block (`blocks.N.attn`).

Linear attention weighs keys, and norms what queries find:
    q = norm(query), k = norm(key);   S = sum_m beta_m (R_m k_m) v_m^T,   z = sum_m relu(k_m)
    out_n = norm_h((R_n q_n)^T S / (relu(q_n) . z + eps))
R turns pairs of channels by a token's place, beta is a sigmoid per token and head, norm_h goes over one head.
The denominator is one number a head and token. In front of the norm it only counts beside the norm's own
epsilon: sglang leaves it out, which at random weights moves the velocity by 4e-4.
Both kinds see the whole clip, and a sigmoid gate of each channel follows them.
Source: SANA-Video 2.0 (NVlabs/Sana, sana_video2_blocks.py).
Shapes: B batch, N tokens, D width, h heads, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.layers import Linear, RMSNorm
from sanakit.ops.gated_delta import wide
from sanakit.ops.rotary_linear_attention import rotated

EPSILON = 1e-8  # beside the denominator of linear attention


class GatedAttention(nn.Module, ABC):
    """The weights and steps that both kinds have."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width), RMSNorm(width)
        self.output_gate, self.proj = Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """B N D -> B N D. rotation: N d/2, complex."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        heads = [self._heads(part) for part in (self.q_norm(query), self.k_norm(key), value)]
        with torch.autocast(x.device.type, enabled=False):
            query, key, value = map(wide, heads)
            out = self.attend(query, key, value, rotation, x)
        return self.proj(out.flatten(2).to(x.dtype) * self.output_gate(x).sigmoid())

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, rotation: Tensor, x: Tensor) -> Tensor:
        """Return what queries find, all B N h d. x: the tokens that they are of, B N D."""

    def _heads(self, x: Tensor) -> Tensor:  # B N D -> B N h d
        return x.unflatten(-1, (-1, self.head_dim))


class GatedLinearAttention(GatedAttention):
    """Linear attention whose keys are weighed and whose results are normed."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__(width, head_dim)
        self.beta_proj = Linear(width, width // head_dim)
        self.o_norm = RMSNorm(head_dim)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rotation: Tensor, x: Tensor) -> Tensor:
        """As for both kinds."""
        beta = wide(self.beta_proj(x)).sigmoid()[..., None]  # B N h 1
        keys = (rotated(key, rotation) * beta).permute(0, 2, 3, 1)  # B h d N
        found = rotated(query, rotation).transpose(1, 2) @ (keys @ value.transpose(1, 2))  # B h N d
        total = (query.relu() * key.relu().sum(1, keepdim=True)).sum(-1, keepdim=True)  # B N h 1
        return self.o_norm(found.transpose(1, 2) / (total + EPSILON))


class GatedSoftmaxAttention(GatedAttention):
    """Softmax attention over all tokens of a clip."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rotation: Tensor, x: Tensor) -> Tensor:
        """As for both kinds."""
        query, key = rotated(query, rotation).transpose(1, 2), rotated(key, rotation).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value.transpose(1, 2)).transpose(1, 2)
