"""Layers that compute in 8 bits on a CPU: W8A8, each row of the weight and each token with its own scale.

Values that stand out in a token take 16 bits by themselves (ops/linear_int8.py): nothing is calibrated, and
no layer has to be left out for its outliers.    Shapes: B samples, N tokens, K channels in, D channels out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.models.layers import Modulation
from sanakit.ops.linear_int8 import add_linear_int8_, linear_int8
from sanakit.ops.modulation import EPS
from sanakit.quant.int8_weight import Int8Weight


class Int8Linear(Int8Weight):
    """The weight of an `Int8Weight`, by which tokens are multiplied in 8 bits too, rounded as they come."""

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... D. Where a gradient is wanted, tokens are not rounded: rounding has none."""
        if x.requires_grad and torch.is_grad_enabled():
            return super().product(x, outputs)
        return linear_int8(x, *self._rows(outputs))

    def modulated(self, x: Tensor, modulation: Modulation, outputs: slice = slice(None)) -> Tensor:
        """B N K -> B N D; norm, modulation and rounding in one pass over each token."""
        shift, scale, _ = modulation
        rows = self._rows(outputs)
        if len(scale) == 1:  # one time for all
            return linear_int8(x, *rows, norm=((1 + scale).flatten(), shift.flatten(), EPS))
        each = zip(x, 1 + scale.flatten(1), shift.flatten(1), strict=True)
        return torch.stack([linear_int8(one, *rows, norm=(gain, add, EPS)) for one, gain, add in each])

    def add_to(self, x: Tensor, y: Tensor, gate: Tensor | None = None) -> None:
        """Add gate * product(y) to x (B N D) in place, as the product comes out of its registers."""
        if gate is None or len(gate) == 1:
            add_linear_int8_(x, y, *self._rows(), None if gate is None else gate.flatten())
            return
        for one, own, its_gate in zip(x, y, gate, strict=True):
            add_linear_int8_(one, own, *self._rows(), its_gate.flatten())

    def _rows(self, outputs: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.weight[outputs], self.scale[outputs], None if self.bias is None else self.bias[outputs]
