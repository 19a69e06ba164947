"""Weights in 8 bits, one scale an output channel; tokens stay as they are.

w ~ q s, with s = max |w| / 127 of the channel, so that no value is off by more than s / 2.
torchao's weight-only path is the same two operations in the other order, (x q) s, which leaves the range of
float16 where x s q would not; so the product here is torch's own, and torchao the oracle of its test.
Shapes: K values in, N values out.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sanakit.quant.layer import Product, matrix_of
from sanakit.quant.weight_only import WeightOnly

LARGEST = 127  # symmetric: -128 is never taken


class Int8Weight(WeightOnly):
    """A product whose weight is int8 with a float32 scale for each output."""

    weight: Tensor  # N K, int8
    scale: Tensor  # N, float32

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Round the weight of a layer, of any float dtype."""
        weight, bias = matrix_of(layer)
        weight = weight.float()
        scale = weight.abs().amax(1) / LARGEST
        scale = torch.where(scale > 0, scale, 1)  # a channel of zeros
        rounded = (weight / scale[:, None]).round_().clamp_(-LARGEST, LARGEST)
        return cls(rounded.to(torch.int8), scale, bias)

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """N K, in one pass over memory: multiplied in float32, rounded once."""
        weight = self.weight[outputs]
        return torch.mul(weight, self.scale[outputs, None], out=torch.empty_like(weight, dtype=dtype))
