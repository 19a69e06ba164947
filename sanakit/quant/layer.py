"""What every quantised layer is: a stand-in for a `Linear` or a `Pointwise`, made of plain stored tensors.

Shapes: K values in, N values out.
"""

from __future__ import annotations

from typing import Self

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
    registers its buffers in `of` and says in `dequantized` which matrix they stand for.
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
        """The same layer without contents, on the meta device: what `of` gives has these names and shapes.

        layer: may lie on the meta device.
        """
        with torch.device("meta"):
            return cls.of(meta_twin(layer))

    def dequantized(self) -> Tensor:
        """The matrix that it computes with, N K in float32."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """... K -> ... N."""
        return self.product(x)

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N, by way of the float matrix: exact for the weight as it was rounded, and slow."""
        bias = None if self.bias is None else self.bias[outputs].to(x.dtype)
        return linear(x, self.dequantized()[outputs].to(x.dtype), bias)

    def extra_repr(self) -> str:
        """Sizes, as of other layers."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def matrix_of(layer: Product) -> tuple[Tensor, Tensor | None]:
    """Weight N K, as stored, and bias of a layer that is to be quantised; neither asks for gradients."""
    inner = layer.conv if isinstance(layer, Pointwise) else layer
    bias = inner.bias
    return inner.weight.detach().flatten(1), None if bias is None else bias.detach()


def meta_twin(layer: Product) -> Product:
    """A layer of the same kind and sizes without memory."""
    has_bias = matrix_of(layer)[1] is not None
    return type(layer)(layer.in_features, layer.out_features, bias=has_bias)
