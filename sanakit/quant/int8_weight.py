"""Weights in 8 bits, one scale an output channel; tokens stay as they are.

w ~ q s, with s = max |w| / 127 of the channel, so that no value is off by more than s / 2.
torchao's weight-only path has the other order, (x q) s, which overflows float16 where x s q does not. So the
product here is torch's own, and torchao the oracle of its test.
Shapes: K values in, N values out.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sanakit.ops.linear_int8 import quantize_rows
from sanakit.quant.layer import Product, ScaledRows, matrix_of


class Int8Weight(ScaledRows):
    """A product whose weight is int8 with a float32 scale for each output."""

    STORED = torch.int8

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Round the weight of a layer, of any float dtype."""
        weight, bias = matrix_of(layer)
        return cls(*quantize_rows(weight), bias)

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """N K, in one pass over memory: multiplied in float32, rounded once."""
        weight = self.weight[outputs]
        return torch.mul(weight, self.scale[outputs, None], out=torch.empty_like(weight, dtype=dtype))
