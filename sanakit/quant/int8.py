"""Layers that compute in 8 bits on a CPU: W8A8, each row of the weight and each token with its own scale.

A token in which a value stands out takes 16 bits by itself (ops/linear_int8.py): nothing is calibrated, and
no layer has to be left out for its outliers.    Shapes: B samples, N tokens, K channels in, D channels out.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sanakit.models.layers import Modulation
from sanakit.ops.linear_int8 import add_linear_int8_, linear_int8, quantize_rows
from sanakit.ops.modulation import EPS
from sanakit.quant.layer import Product, Quantized, matrix_of


class Int8Linear(Quantized):
    """A product of tokens with a matrix in 8 bits; the tokens are rounded as they come."""

    weight: Tensor  # D K, int8
    scale: Tensor  # D, float32

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Round the weight of a layer, of any float dtype."""
        weight, bias = matrix_of(layer)
        return cls(*quantize_rows(weight), bias)

    @classmethod
    def empty(cls, layer: Product) -> Self:
        """The same layer without contents; rounding on the meta device would import torch's compiler."""
        outputs, bias = layer.out_features, matrix_of(layer)[1]
        with torch.device("meta"):
            weight = torch.empty(outputs, layer.in_features, dtype=torch.int8)
            return cls(weight, torch.empty(outputs), None if bias is None else torch.empty(outputs))

    def dequantized(self) -> Tensor:
        """The matrix that it computes with, D K in float32."""
        return self.weight.float() * self.scale[:, None]

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... D."""
        return linear_int8(x, *self._rows(outputs))

    def modulated(self, x: Tensor, modulation: Modulation, outputs: slice = slice(None)) -> Tensor:
        """B N K -> B N D; norm, modulation and rounding in one pass over each token."""
        shift, scale, _ = modulation
        if len(scale) == 1:  # one time for all
            norm = ((1 + scale).flatten(), shift.flatten(), EPS)
            return linear_int8(x, *self._rows(outputs), norm=norm)
        each = zip(x, scale, shift, strict=True)
        return torch.stack(
            [self.modulated(one[None], (add[None], times[None], add), outputs)[0] for one, times, add in each]
        )

    def add_to(self, x: Tensor, y: Tensor, gate: Tensor | None = None) -> None:
        """Add gate * product(y) to x (B N D) in place, as the product comes out of its registers."""
        if gate is None or len(gate) == 1:
            add_linear_int8_(x, y, *self._rows(), None if gate is None else gate.flatten())
            return
        for one, own, its_gate in zip(x, y, gate, strict=True):
            add_linear_int8_(one, own, *self._rows(), its_gate.flatten())

    def _rows(self, outputs: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.weight[outputs], self.scale[outputs], None if self.bias is None else self.bias[outputs]
