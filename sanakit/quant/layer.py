"""The base of quantised layers, which replace a `Linear` or a `Pointwise` and hold plain tensors.

Its weight is widened again for every product, to the dtype of the tokens, unless a subclass multiplies in few
bits. Rounding the weight is then the only loss: tokens are not touched, so nothing in them
can overflow or be an outlier. A product costs what its float twin costs, and the widening on top: memory is
saved, not arithmetic.    Shapes: K values in, N values out.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sanakit.models.layers import Linear, Pointwise, TokenProduct
from sanakit.ops.linear import linear

Product = Linear | Pointwise
"""The layers that can be quantised."""


class Quantized(TokenProduct, nn.Module):
    """A product over tokens whose weight is kept in few bits.

    All it holds are buffers of dtypes that safetensors knows, so that a file of its state_dict is complete;
    they are stored and loaded as they are. The bias, a parameter, has the dtype to compute in. A subclass
    makes its buffers in `of`, their empty likes in `empty`, and says in `matrix` what they stand for.
    """

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Quantise a layer, of any float dtype; it is not changed."""
        raise NotImplementedError

    @classmethod
    def empty(cls, layer: Product) -> Self:
        """Return the layer without contents, on the meta device, with the names and shapes of `of`.

        layer: may lie on the meta device. (Running `of` there would do too, but imports torch's compiler.)
        """
        raise NotImplementedError

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """Return the rows of the matrix for a run of the N outputs, each value rounded to the dtype once."""
        raise NotImplementedError

    def dequantized(self) -> Tensor:
        """Return the matrix that it computes with, N K in float32."""
        return self.matrix(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """... K -> ... N."""
        return self.product(x)

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N, by way of the float matrix."""
        return linear(x, self.matrix(x.dtype, outputs), self.bias_of(outputs, x.dtype))

    def bias_of(self, outputs: slice, dtype: torch.dtype) -> Tensor | None:
        """Return the bias of a run of the outputs in the dtype of the tokens, or None."""
        return None if self.bias is None else self.bias[outputs].to(dtype)

    def extra_repr(self) -> str:
        """Sizes, as of other layers."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class ScaledRows(Quantized):
    """A product whose weight is stored value by value, with a float32 scale for each output."""

    STORED: ClassVar[torch.dtype]

    weight: Tensor  # N K, of dtype STORED
    scale: Tensor  # N, float32

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @classmethod
    def empty(cls, layer: Product) -> Self:
        """Return the same layer without contents, on the meta device."""
        shape = layer.out_features, layer.in_features
        return cls(blank(*shape, dtype=cls.STORED), blank(shape[0]), blank_bias(layer))

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """N K: multiplied in float32, rounded once."""
        return self.weight[outputs].float().mul_(self.scale[outputs, None]).to(dtype)


def matrix_of(layer: Product) -> tuple[Tensor, Tensor | None]:
    """Weight N K, as stored, and bias of a layer that is to be quantised; neither asks for gradients."""
    inner = layer.conv if isinstance(layer, Pointwise) else layer
    bias = inner.bias
    return inner.weight.detach().flatten(1), None if bias is None else bias.detach()


def blank(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def blank_bias(layer: Product) -> Tensor | None:
    """Return the bias of a layer, if it has one, without memory."""
    return None if matrix_of(layer)[1] is None else blank(layer.out_features)
