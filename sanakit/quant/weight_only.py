"""Layers whose weight lies in few bits and is widened anew for every product, to the dtype of the tokens.

What rounding took from the weight is all that is lost: tokens are not touched, so nothing in them can
overflow or be an outlier. A product costs what its float twin costs, and the widening on top: memory is
saved, not arithmetic.    Shapes: K values in, N values out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.ops.linear import linear
from sanakit.quant.layer import Quantized


class WeightOnly(Quantized):
    """A product with a matrix that a subclass knows how to widen."""

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """The rows of the matrix for a run of the N outputs, each value rounded to the dtype once."""
        raise NotImplementedError

    def dequantized(self) -> Tensor:
        """The whole matrix, N K in float32."""
        return self.matrix(torch.float32)

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N."""
        return linear(x, self.matrix(x.dtype, outputs), self.bias_of(outputs, x.dtype))

    def bias_of(self, outputs: slice, dtype: torch.dtype) -> Tensor | None:
        """The bias of a run of the outputs in the dtype of the tokens, or None."""
        return None if self.bias is None else self.bias[outputs].to(dtype)
