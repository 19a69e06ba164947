"""The parts that SANA is made of: sinusoids, normalisation, attention to self and to text, Mix-FFN.

Parameter names equal the official checkpoints. Attention and Mix-FFN have two ways through each: `forward` is
plain and differentiable; `add_` adds the branch to the tokens in place, without gradients. On a CPU it takes
so few tokens at a time that what it makes of them stays in the caches: the same arithmetic for every token.
Shapes: B batch, N = H*W tokens, D width, h heads, d head width, L text tokens, M hidden width of the Mix-FFN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.ops.attention import attention
from sanakit.ops.gated_depthwise import gated_depthwise
from sanakit.ops.linear import linear
from sanakit.ops.linear_attention import attend, attention_sums
from sanakit.ops.modulation import add_gated_, modulated_norm

Modulation = tuple[Tensor, Tensor, Tensor]  # shift, scale, gate: B 1 D each, or 1 1 D for the whole batch
# Of an activation that a CPU makes at a time: 16 MB of float32. glibc gives larger ones, from 32 MB on, new
# pages in every call.
_BAND_VALUES = 4 << 20


class TokenProduct:
    """The interface of large matrix products over tokens: `Linear`, `Pointwise` and quantised layers.

    Those (quant/) may do norm, product and sum in one go. Shapes: ... any leading axes, K in, N out.
    """

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N, in the dtype of x. outputs: a run of the N to compute alone."""
        raise NotImplementedError

    def modulated(self, x: Tensor, modulation: Modulation, outputs: slice = slice(None)) -> Tensor:
        """B N K -> B N N: the product with the modulated norm of the tokens, whose gate is left aside."""
        shift, scale, _ = modulation
        return self.product(modulated_norm(x, scale, shift), outputs)

    def add_to(self, x: Tensor, y: Tensor, gate: Tensor | None = None) -> None:
        """Add gate * product(y) to x (B N D) in place. y: B N K. gate: B 1 D or 1 1 D; None: 1."""
        add_gated_(x, self.product(y), gate)


class Linear(TokenProduct, nn.Linear):
    """A linear layer that computes in the dtype of its input, whichever its weight is stored in.

    Its bias tells the dtype to compute in: a weight may lie in 16 bits in a file (`weights/layouts/fill.py`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """... x K -> ... x N."""
        return linear(x, self.weight, self.bias)

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N."""
        return linear(x, self.weight[outputs], None if self.bias is None else self.bias[outputs])


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 or float64, with a learned gain."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, eps: float | None = None) -> Tensor:
        """x: ... x width; returns the same shape and dtype. eps: None: the norm's own."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + (self.eps if eps is None else eps))
        return (normed.to(self.weight.dtype) * self.weight).to(x.dtype)


def band(x: Tensor, axis: int, values: int) -> int:
    """Return how many steps along an axis of x to take at a time, if each makes so many values.

    On a CPU as many as keep to a band, in bands of nearly one size; elsewhere all.
    """
    length = x.shape[axis]
    count = -(-length // max(1, _BAND_VALUES // values)) if x.is_cpu else 1
    return -(-length // count)


def branches(table: Tensor, modulation: Tensor) -> tuple[Modulation, Modulation]:
    """Return shift, scale and gate of self-attention and of the Mix-FFN, B 1 D each.

    table: 6 D, a block's own. modulation: B 6D, of the times.
    """
    both = (table + modulation.unflatten(-1, (6, -1))).unsqueeze(2)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = both.unbind(1)
    return (shift, scale, gate), (shift_mlp, scale_mlp, gate_mlp)


def few_samples(x: Tensor, modulation: Modulation, values: int) -> Iterator[tuple[Tensor, Modulation]]:
    """Yield views of as many samples as keep to a band, and their modulation; each makes so many values."""
    count = band(x, 0, values)
    for start in range(0, len(x), count):
        shift, scale, gate = (part if len(part) == 1 else part[start : start + count] for part in modulation)
        yield x[start : start + count], (shift, scale, gate)


class LinearSelfAttention(nn.Module):
    """Multi-head ReLU linear attention over the image tokens (`blocks.N.attn`)."""

    def __init__(self, width: int, head_dim: int, qk_norm: bool) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width) if qk_norm else nn.Identity()
        self.proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """B N D -> B N D."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        out = self.proj(self._attend(query, self._sums(key, value)))
        return out.clamp(-65504, 65504) if out.dtype == torch.float16 else out

    def add_(self, x: Tensor, modulation: Modulation) -> None:
        """Add the gated branch of the modulated tokens to x (B N D) in place.

        Bands of tokens are read twice: for the sums of their keys and values, then for their queries.
        """
        third = self.qkv.out_features // 3
        for samples, own in few_samples(x, modulation, x.shape[1] * 3 * third):
            bands = samples.split(band(samples, 1, len(samples) * 3 * third), dim=1)
            if len(bands) == 1:  # nothing to come back to: one norm and one product for all three
                query, key, value = self.qkv.modulated(samples, own).chunk(3, dim=-1)
                self.proj.add_to(samples, self._attend(query, self._sums(key, value)), own[2])
                continue
            sums = torch.zeros((), dtype=torch.float32)
            for tokens in bands:
                key, value = self.qkv.modulated(tokens, own, slice(third, None)).chunk(2, dim=-1)
                sums = sums + self._sums(key, value)
            for tokens in bands:
                query = self.qkv.modulated(tokens, own, slice(third))
                self.proj.add_to(tokens, self._attend(query, sums), own[2])

    def _sums(self, key: Tensor, value: Tensor) -> Tensor:  # B N D each -> B h d+1 d
        return attention_sums(self._heads(self.k_norm(key)), self._heads(value))

    def _attend(self, query: Tensor, sums: Tensor) -> Tensor:  # B N D, before the output projection
        return attend(self._heads(self.q_norm(query)), sums).transpose(1, 2).flatten(2).to(query.dtype)

    def _heads(self, x: Tensor) -> Tensor:  # B N D -> B h N d
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class TextKeysValues:
    """One layer's keys and values of one prompt, shared by `count` consecutive samples of the batch.

    constant: D, the whole branch's output, when the prompt is a single token: a softmax over one key is 1
    whatever the query. Otherwise key and value: 1 h L d, without padding. eps: of their norms, if not 1e-5.
    bias: 1 1 1 L, added to the scores of the tokens, see `weighted.py`.
    """

    count: int
    key: Tensor | None = None
    value: Tensor | None = None
    constant: Tensor | None = None
    eps: float | None = None
    bias: Tensor | None = None


class CrossAttention(nn.Module):
    """Softmax attention from image tokens to text tokens (`blocks.N.cross_attn`)."""

    def __init__(self, width: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = Linear(width, width)
        self.kv_linear = Linear(width, 2 * width)
        self.q_norm = RMSNorm(width) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width) if qk_norm else nn.Identity()
        self.proj = Linear(width, width)

    def keys_values(self, text: Tensor, eps: float | None = None) -> tuple[Tensor, Tensor]:
        """B L D -> two of B h L d."""
        key, value = self.kv_linear(text).chunk(2, dim=-1)
        key = self.k_norm(key) if eps is None else self.k_norm(key, eps)
        return self._heads(key), self._heads(value)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: B N D; key, value: B h L d; mask: B L, true where a token is real. Returns B N D."""
        return self.proj(self._attend(x, TextKeysValues(len(x), key, value), mask))

    def _attend(self, x: Tensor, text: TextKeysValues, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.q_linear(x), text.key, text.value
        assert key is not None
        assert value is not None
        query = self._heads(self.q_norm(query) if text.eps is None else self.q_norm(query, text.eps))
        bias = text.bias if mask is None else mask[:, None, None, :]
        if query.dtype == torch.bfloat16 and query.requires_grad and query.device.type == "cpu":
            # On a CPU the backward pass of bf16 attention takes 9x the float32 one (torch 2.13, Zen 5).
            with torch.autocast("cpu", enabled=False):
                out = attention(query.float(), key.float(), value.float(), bias)
        else:
            out = attention(query, key, value, bias)
        return out.to(x.dtype).transpose(1, 2).flatten(2)

    def prepare(self, text: Tensor, count: int, eps: float | None = None) -> TextKeysValues:
        """Return keys and values of one unpadded prompt (text: 1 L D) for `count` samples."""
        key, value = self.keys_values(text, eps)
        if text.shape[1] == 1:
            return TextKeysValues(count, constant=self.proj(value.transpose(1, 2).flatten()))
        return TextKeysValues(count, key=key, value=value, eps=eps)

    def add_(self, x: Tensor, prompts: list[TextKeysValues], to: Tensor | None = None) -> None:
        """Add the branch of x (B N D) to `to`, of that shape, or else to x itself, in place.

        Prompt by prompt: samples of one prompt attend as one.
        """
        start, to = 0, x if to is None else to
        for prompt in prompts:
            rows, sums = (part[start : start + prompt.count].view(-1, x.shape[-1]) for part in (x, to))
            start += prompt.count
            if prompt.constant is not None:
                sums += prompt.constant
                continue
            count = band(rows, 0, 3 * rows.shape[1])  # query, result, output
            for some, sum_of_some in zip(rows.split(count), sums.split(count), strict=True):
                self.proj.add_to(sum_of_some[None], self._attend(some[None], prompt))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Convolution(nn.Module):
    """Holds a convolution under the name `conv`, as the official checkpoints do."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=bias
        )


class Pointwise(TokenProduct, Convolution):
    """A 1x1 convolution: a matrix product over tokens, without a copy to channels first."""

    def __init__(self, channels_in: int, channels_out: int, *, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, 1, bias=bias)
        self.in_features, self.out_features = channels_in, channels_out

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N."""
        bias = self.conv.bias
        return linear(x, self.conv.weight.flatten(1)[outputs], None if bias is None else bias[outputs])


class MixFFN(nn.Module):
    """Gated feed-forward around a depthwise 3x3 convolution, the stand-in for positions (`blocks.N.mlp`)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)  # M
        self.inverted_conv = Pointwise(width, 2 * hidden)
        self.depth_conv = Convolution(2 * hidden, 2 * hidden, 3, groups=2 * hidden)
        self.point_conv = Pointwise(hidden, width, bias=False)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """B N D -> B N D, with N = height * width."""
        rows = x.unflatten(1, (height, width))  # B H W D
        return self.point_conv.product(self._gated(self.inverted_conv.product(rows)))

    def add_(self, x: Tensor, modulation: Modulation, height: int, width: int) -> None:
        """Add the gated branch of the modulated tokens to x (B N D) in place.

        A band of rows completes all rows but its last, whose lower neighbour comes with the next band; that
        last row is left as it was until then, and what the next band needs of this one is kept.
        """
        for samples, own in few_samples(x, modulation, height * width * self.inverted_conv.out_features):
            done = 0
            for y in self.bands(samples, own, height, width):
                self.point_conv.add_to(samples[:, done : done + y.shape[1]], y, own[2])
                done += y.shape[1]

    def bands(self, x: Tensor, modulation: Modulation, height: int, width: int) -> Iterator[Tensor]:
        """Yield what `point_conv` takes of the modulated tokens, B n M, band by band from the top."""
        rows = x.unflatten(1, (height, width))  # B H W D
        step = max(2, band(rows, 1, len(rows) * width * self.inverted_conv.out_features))
        kept = None
        for top in range(0, height, step):
            wide = self.inverted_conv.modulated(rows[:, top : top + step].flatten(1, 2), modulation)
            wide = wide.unflatten(1, (-1, width))  # B R W 2M
            wide = wide if kept is None else torch.cat([kept, wide], dim=1)
            more = top + step < height
            yield self._gated(wide, above=int(kept is not None), below=int(more))
            # A row to look at, and one whose own lower neighbour is missing.
            kept = wide[:, -2:].clone() if more else None

    def _gated(self, rows: Tensor, above: int = 0, below: int = 0) -> Tensor:  # B R W 2M -> B N M
        depth = self.depth_conv.conv
        return gated_depthwise(rows, depth.weight, depth.bias, above=above, below=below).flatten(1, 2)


class PairMLP(nn.Module):
    """Two linear layers with an activation between: `fc1`, `fc2`."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width_in, width)
        self.fc2 = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """... x width_in -> ... x width."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Embed scalars as cosines, then sines, of geometrically spaced frequencies (Vaswani et al. 2017).

    values: B, any range; SANA's times reach 1000. width: even. Returns B x width in float32.
    """
    half = width // 2
    places = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * torch.exp(places * (-math.log(10000.0) / half))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(
    height: int, width: int, channels: int, *, base_size: int, interpolation: float, device: str = "cpu"
) -> Tensor:
    """Return fixed 2-D sine-cosine positions, as the 2K and 4K models add them to their tokens.

    The grid is stretched to base_size / interpolation per side, so an image of any size spans the range
    of coordinates that the model was trained on. The first half of the channels encodes x, the second y.
    Returns (height * width) x channels in float32, row by row, on a device that knows float64.
    """
    omega = 10000.0 ** (-torch.arange(channels // 4, dtype=torch.float64, device=device) / (channels / 4))

    def encode(count: int) -> Tensor:
        places = torch.arange(count, dtype=torch.float32, device=device) / (count / base_size) / interpolation
        angles = places.double()[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float()  # count x channels/2

    x = encode(width)[None, :, :].expand(height, -1, -1)
    y = encode(height)[:, None, :].expand(-1, width, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)
