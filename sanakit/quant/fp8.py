"""Weights as 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa), one scale an output channel.

w ~ f s, with s = max |w| / 448 of the channel. A value is off by at most 2^-4 of itself,
or 2^-10 s next to 0.
On a GPU with float8 units (NVIDIA from compute capability 8.9 on: Ada, Hopper, Blackwell) products are W8A8:
tokens are rounded to e4m3 too, with a scale for each, and multiplied in 8 bits by the operation that torchao
calls as well. Everywhere else the weight is widened and tokens stay as they are.
Shapes: K values in, N values out, M tokens.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sanakit.ops.torch_private import scaled_product
from sanakit.quant.layer import Product, ScaledRows, matrix_of

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448
MULTIPLE = 16  # of K and N: what the units ask for


class Float8(ScaledRows):
    """A product whose weight is float8_e4m3fn with a float32 scale for each output."""

    STORED = FLOAT8

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Round the weight of a layer, of any float dtype."""
        weight, bias = matrix_of(layer)
        rounded, scale = round_rows(weight)
        return cls(rounded, scale[:, 0], bias)

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N. Where a gradient is wanted, tokens are not rounded: rounding has none."""
        if x.requires_grad and torch.is_grad_enabled():
            return super().product(x, outputs)
        fits = not (self.in_features % MULTIPLE or len(self.scale[outputs]) % MULTIPLE)
        if fits and x.is_cuda and multiplies_float8(x.device):
            return self.scaled_product(x, outputs)
        return super().product(x, outputs)

    def scaled_product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N with tokens rounded to e4m3; K and N multiples of 16.

        Summed in float32 and given by way of bfloat16, the one dtype that the units of every such GPU give
        for scales by the row.
        """
        tokens, scale = round_rows(x.reshape(-1, self.in_features))
        bias = self.bias_of(outputs, torch.bfloat16)
        y = scaled_product(tokens, self.weight[outputs], scale, self.scale[outputs], bias)
        return y.view(*x.shape[:-1], -1).to(x.dtype)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return M K in e4m3 and the scale of each row, M 1 in float32, whose product is about x (M K)."""
    scale = x.abs().amax(-1, keepdim=True).float() / LARGEST
    scale = torch.where(scale > 0, scale, 1)  # a row of zeros
    return (x / scale).clamp_(-LARGEST, LARGEST).to(FLOAT8), scale


def multiplies_float8(device: torch.device) -> bool:
    """Return whether a GPU multiplies 8-bit floats."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)
