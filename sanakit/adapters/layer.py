"""Products with adapters: y = W x + b + sum of w s B (A x), around any layer that is a product over tokens.

The layer itself, its weight and its kernels stay as they are, in float or quantised, so that removing an
adapter puts back what was there. Without an adapter of a weight other than 0, every call is the layer's own.
DoRA (arXiv:2402.09353) replaces W by g (W + s B A), with g = m / |W + s B A| by rows. Its change is the
difference to W, so that a weight scales it and several adapters are summed, as for all others.
Source: LoRA (arXiv:2106.09685); s = alpha / r, or alpha / sqrt(r) (rsLoRA, arXiv:2312.03732).

To train: A and B are parameters that ask for no gradient. Attach an `Adapter` of float32 tensors, call
`requires_grad_` on the `parameters` of its `LowRank` parts, and run the transformer's `forward`. Products are
computed in the dtype of the tokens, so that float32 masters learn over a base in 16 bits. The base may be
quantised: gradients pass through its dequantised product, to the tokens and to A and B alone. g of DoRA is a
constant, as in its paper's cheaper form; m is not learned here.
Shapes: ... any leading axes, K in, N out, r rank, n rows of the N that a part changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sanakit.models.layers import Linear, Modulation, Pointwise, TokenProduct
from sanakit.models.sana import LatentEmbedder
from sanakit.ops.linear import linear
from sanakit.quant.layer import Quantized

Product = Linear | Pointwise | Quantized
"""The layers that take adapters, beside the embedder of the latents."""

ROWS = 512  # of a matrix that are widened at a time, for their norms


class LowRank(nn.Module):
    """The change of one adapter to a run of a layer's outputs: weight * scale * B (A x).

    owner: the adapter's name. start: the first of its rows among the layer's N. gain: g of DoRA, n.
    """

    gain: Tensor | None

    def __init__(
        self, owner: str, down: Tensor, up: Tensor, scale: float, start: int = 0, gain: Tensor | None = None
    ) -> None:
        super().__init__()
        self.owner, self.scale, self.start = owner, scale, start
        self.weight = 1.0  # the user's, of any sign
        self.down = nn.Parameter(down, requires_grad=False)  # A, r K
        self.up = nn.Parameter(up, requires_grad=False)  # B, n r
        self.register_buffer("gain", gain)

    def change(
        self, x: Tensor, y: Tensor, bias: Tensor | None, outputs: tuple[int, int]
    ) -> tuple[slice, Tensor] | None:
        """Return which columns of y change, and by what; None: none of these outputs.

        x: ... K. y: what the base made of it, with its bias, for the outputs from one to another.
        """
        first, last = max(outputs[0], self.start), min(outputs[1], self.start + len(self.up))
        if first >= last:
            return None
        own = slice(first - self.start, last - self.start)
        columns = slice(first - outputs[0], last - outputs[0])
        change = linear(linear(x, self.down) * (self.weight * self.scale), self.up[own])
        if self.gain is not None:
            gain = self.gain[own].to(y.dtype)
            plain = y[..., columns] if bias is None else y[..., columns] - bias[first:last].to(y.dtype)
            change = change * gain + plain * ((gain - 1) * self.weight)
        return columns, change

    def matrix(self, base: Tensor) -> Tensor:
        """Return what it adds to the rows of the base's matrix (n K, float32): weight * change."""
        delta = self.scale * (self.up.float() @ self.down.float())
        if self.gain is not None:
            delta = self.gain[:, None] * (base + delta) - base
        return self.weight * delta

    def extra_repr(self) -> str:
        """Name, rows and rank."""
        return f"{self.owner!r}, rows {self.start} to {self.start + len(self.up)}, rank {len(self.down)}"


class Adapted(TokenProduct, nn.Module):
    """A layer and the adapters on it; takes the layer's place."""

    def __init__(self, base: Product) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleList()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.train(base.training)

    @property
    def bias(self) -> Tensor | None:
        """The layer's own bias."""
        return self.base.conv.bias if isinstance(self.base, Pointwise) else self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """... K -> ... N."""
        return self.product(x) if _active(self.adapters) else self.base.forward(x)

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N."""
        first, last, _ = outputs.indices(self.out_features)
        return _added(self.base.product(x, outputs), x, self.bias, (first, last), self.adapters)

    def modulated(self, x: Tensor, modulation: Modulation, outputs: slice = slice(None)) -> Tensor:
        """B N K -> B N N; without an active adapter by the layer's own way, in one pass where it has that."""
        own = super() if _active(self.adapters) else self.base
        return own.modulated(x, modulation, outputs)

    def add_to(self, x: Tensor, y: Tensor, gate: Tensor | None = None) -> None:
        """Add gate * product(y) to x (B N D) in place."""
        own = super() if _active(self.adapters) else self.base
        own.add_to(x, y, gate)


class AdaptedLatents(nn.Module):
    """The embedder of the latents with adapters: its 1x1 convolution is a product over pixels."""

    def __init__(self, base: LatentEmbedder) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleList()
        self.out_features = base.proj.out_channels
        self.train(base.training)

    def forward(self, latents: Tensor) -> Tensor:
        """B C H W -> B N D."""
        tokens = self.base(latents)
        pixels = latents.flatten(2).transpose(1, 2).to(tokens.dtype)
        return _added(tokens, pixels, self.base.proj.bias, (0, self.out_features), self.adapters)


def base_matrix(layer: nn.Module, rows: slice) -> Tensor:
    """Return rows of the matrix that a layer computes with, n K in float32; of a quantised one widened."""
    if isinstance(layer, Quantized):
        return layer.matrix(torch.float32, rows)
    return float_layer(layer).weight.detach().flatten(1)[rows].float()


def float_layer(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the module that has the weight of a layer in float."""
    inner = layer.conv if isinstance(layer, Pointwise) else layer
    inner = layer.proj if isinstance(layer, LatentEmbedder) else inner
    assert isinstance(inner, nn.Linear | nn.Conv2d)
    return inner


def dora_gain(
    layer: nn.Module, magnitude: Tensor, down: Tensor, up: Tensor, scale: float, start: int
) -> Tensor:
    """Return g = m / |W + s B A| by rows, n in float32. magnitude: m, n."""
    norms = []
    for first in range(0, len(up), ROWS):
        some = up[first : first + ROWS].float()
        rows = base_matrix(layer, slice(start + first, start + first + len(some)))
        norms.append((rows + scale * (some @ down.float())).norm(dim=1))
    return magnitude.float() / torch.cat(norms)


def merged_matrix(layer: nn.Module, parts: nn.ModuleList) -> Tensor:
    """Return a layer's matrix with its adapters summed into it, N K in float32."""
    matrix = base_matrix(layer, slice(None)).clone()
    active = list(_parts(parts))
    base = matrix.clone() if any(part.gain is not None for part in active) else matrix
    for part in active:
        rows = slice(part.start, part.start + len(part.up))
        matrix[rows] += part.matrix(base[rows])
    return matrix


def _active(parts: nn.ModuleList) -> bool:
    return any(part.weight for part in parts)


def _parts(parts: nn.ModuleList) -> Iterator[LowRank]:
    return (part for part in parts if isinstance(part, LowRank) and part.weight)


def _added(
    y: Tensor, x: Tensor, bias: Tensor | None, outputs: tuple[int, int], parts: nn.ModuleList
) -> Tensor:
    """Return y, a new tensor, with the changes of all active parts, each taken from y as it came."""
    changes = [part.change(x, y, bias, outputs) for part in _parts(parts)]
    if changes and y.requires_grad:  # what a library's own backward made may not be changed in place
        y = y.clone()
    for columns, change in filter(None, changes):
        y[..., columns] += change
    return y
