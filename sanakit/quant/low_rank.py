"""4 bits with a correction of low rank in 16 bits: W ~ L1 L2 + int4, as in SVDQuant (arXiv:2411.05007).

A few directions carry much of a trained matrix. Taken out and kept in 16 bits, they leave a rest with less
range to cover. The two parts are then fitted in turn, each to the other's residual, as in LoftQ
(arXiv:2310.08659). The codes change from the first residual, and the correction absorbs some of their error.
Not here, of what SVDQuant does: it first moves outliers from activations into weights (smoothing), which
needs calibration data, and it rounds activations to 4 bits as well, with kernels of its own. This one looks
at weights alone and leaves activations as they are.
Shapes: K values in, N values out, R rank.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sanakit.quant.int4 import Int4
from sanakit.quant.layer import Product, matrix_of

RANK = 32  # SVDQuant's
NARROW = 32  # at most this part of the narrower side, so that a small model's correction stays one
ROUNDS = 4  # in which the two parts are fitted to each other
FIRST, NEXT = 6, 2  # power iterations: from noise, and from the correction before


class LowRankInt4(Int4):
    """A product whose weight is an int4 matrix plus one of low rank in float16."""

    up: Tensor  # N R, float16
    down: Tensor  # R K, float16

    def __init__(self, base: Int4, up: Tensor, down: Tensor) -> None:
        super().__init__(base.in_features, base.weight, base.scale, base.least, base.bias)
        self.register_buffer("up", up)
        self.register_buffer("down", down)

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Split the weight of a layer, of any float dtype; the same weight always gives the same parts."""
        weight, bias = matrix_of(layer)
        weight = weight.float()
        shape = (rank_for(*weight.shape), weight.shape[1])
        start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        up, down = (part.half() for part in leading(weight, start.to(weight.device), FIRST))
        base = Int4.rounded(weight - up.float() @ down.float(), bias)
        for _ in range(ROUNDS):
            rest = weight - base.dequantized()
            up, down = (part.half() for part in leading(rest, down, NEXT))
            base = Int4.rounded(weight - up.float() @ down.float(), bias)
        return cls(base, up.contiguous(), down)

    @classmethod
    def empty(cls, layer: Product) -> Self:
        """Return the same layer without contents, on the meta device."""
        base = Int4.empty(layer)
        rank = rank_for(base.out_features, base.in_features)
        up = base.scale.new_empty(base.out_features, rank)
        return cls(base, up, up.new_empty(rank, base.in_features))

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """N K: both parts summed, R multiplications a value next to one for every token."""
        return torch.addmm(super().matrix(dtype, outputs), self.up[outputs].to(dtype), self.down.to(dtype))


def rank_for(outputs: int, inputs: int) -> int:
    """Return the rank of the correction of a matrix."""
    return max(1, min(RANK, min(outputs, inputs) // NARROW))


def leading(matrix: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return up (N R, orthonormal columns) and down (R K) whose product is the nearest of rank R to a matrix.

    start: R K, from which power iterations begin; the closer the fewer are needed.
    """
    up, down = matrix, start.to(matrix.dtype)
    for _ in range(iterations):
        up = torch.linalg.qr(matrix @ down.t()).Q
        down = up.t() @ matrix
    return up, down
