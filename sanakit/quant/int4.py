"""Weights in 4 bits: groups of 64 values along K share a scale and a least value, both in 16 bits.

w ~ q s + m, q in 0..15: 4.5 bits a weight. From the extremes of a group a few rounds of least squares follow
(codes given scale and least, then those two given the codes); each round lowers the group's squared error,
and no data are needed. On trained weights it beat HQQ, torchao's method, in weights and in velocity
(docs/quantize.md). torchao's 4-bit product is made for a few rows of tokens and needs its own weight order. A
SANA step has a thousand rows or more, for which widening is faster.
Shapes: K values in, N values out, G = ceil(K / 64) groups.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.quant.layer import Product, Quantized, blank, blank_bias, matrix_of

GROUP = 64
LARGEST = 15
ROUNDS = 4  # of least squares; more bring little
ROWS = 128  # of a matrix that are fitted at a time: what that makes stays in a CPU's caches
Codes = tuple[Tensor, Tensor, Tensor]
"""N G 64 codes 0..15 as float32; N G 1 scale and least value, float16."""


class Int4(Quantized):
    """A product whose weight is two codes a byte, with a scale and a least value for each group of 64."""

    weight: Tensor  # N 32G, uint8; byte j of a group holds value j in its low half, j + 32 in its high half
    scale: Tensor  # N G, float16
    least: Tensor  # N G, float16

    def __init__(
        self, in_features: int, weight: Tensor, scale: Tensor, least: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__(in_features, weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("least", least)

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Round the weight of a layer, of any float dtype."""
        weight, bias = matrix_of(layer)
        return cls.rounded(weight.float(), bias)

    @classmethod
    def rounded(cls, weight: Tensor, bias: Tensor | None) -> Self:
        """Round a matrix, N K in float32."""
        parts = [fit(some) for some in weight.split(ROWS)]
        packed = torch.cat([pack(codes) for codes, _, _ in parts])
        scale, least = (torch.cat([part[place][..., 0] for part in parts]) for place in (1, 2))
        return cls(weight.shape[1], packed, scale, least, bias)

    @classmethod
    def empty(cls, layer: Product) -> Self:
        """Return the same layer without contents, on the meta device."""
        outputs, groups = layer.out_features, -(-layer.in_features // GROUP)
        packed = blank(outputs, groups * GROUP // 2, dtype=torch.uint8)
        scale, least = (blank(outputs, groups, dtype=torch.float16) for _ in range(2))
        return cls(layer.in_features, packed, scale, least, blank_bias(layer))

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """N K: multiplied and added in float32, rounded once."""
        packed = self.weight[outputs].unflatten(1, (-1, GROUP // 2))
        codes = torch.cat([packed & LARGEST, packed >> 4], dim=-1)  # N G 64
        scale, least = (part[outputs, :, None].float() for part in (self.scale, self.least))
        wide = torch.addcmul(least, codes, scale, out=torch.empty_like(codes, dtype=dtype))
        return wide.flatten(1)[:, : self.in_features]


def fit(weight: Tensor) -> Codes:
    """Choose codes, scale and least value of every group of a matrix N K (float32)."""
    # The last group is filled up with the last value, which widens its range least.
    x = F.pad(weight, (0, -weight.shape[1] % GROUP), mode="replicate").unflatten(1, (-1, GROUP))  # N G 64
    least, most = x.aminmax(dim=-1, keepdim=True)
    scale = (most - least) / LARGEST
    for _ in range(ROUNDS):
        codes = encode(x, scale, least)
        middle = codes.mean(-1, keepdim=True)
        spread = (codes - middle).square().sum(-1, keepdim=True)
        slope = ((codes - middle) * x).sum(-1, keepdim=True) / spread
        scale = torch.where(spread > 0, slope, scale)
        least = x.mean(-1, keepdim=True) - scale * middle
    scale, least = scale.half(), least.half()
    return encode(x, scale.float(), least.float()), scale, least


def encode(x: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """Return the nearest codes of x for these scales and least values, as floats; scale 0 gives code 0."""
    return torch.where(scale > 0, (x - least) / scale, 0).round_().clamp_(0, LARGEST)


def pack(codes: Tensor) -> Tensor:
    """N G 64 codes -> N 32G bytes."""
    low, high = codes.to(torch.uint8).chunk(2, dim=-1)
    return (low | high << 4).flatten(1)
