"""Weights in 8 bits: the bound of rounding, and torchao's weight-only product as the oracle."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.layers import Linear
from sanakit.quant.int8_weight import Int8Weight


def heavy_tailed(inputs: int, outputs: int) -> Linear:
    """A layer with outliers: Student's t with 2 degrees of freedom."""
    torch.manual_seed(0)
    layer = Linear(inputs, outputs)
    layer.weight.data = torch.randn_like(layer.weight) * torch.empty_like(layer.weight).exponential_().rsqrt()
    return layer


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_no_value_is_off_by_more_than_half_a_step(scale: float) -> None:
    layer = heavy_tailed(320, 48)
    layer.weight.data *= scale
    step = layer.weight.detach().abs().amax(1, keepdim=True) / 127
    error = (Int8Weight.of(layer).dequantized() - layer.weight.detach()).abs()
    assert (error <= step / 2 * (1 + 1e-4)).all()  # and the roundings of float32, up to 127 * 2^-24 steps


def test_the_largest_of_a_channel_is_kept() -> None:
    layer = heavy_tailed(320, 48)
    matrix, place = Int8Weight.of(layer).dequantized(), layer.weight.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(matrix.gather(1, place), layer.weight.detach().gather(1, place))


def test_product_equals_torchao() -> None:
    """The same numbers in torchao's tensor give the same product, up to the order of its operations."""
    torchao = pytest.importorskip("torchao.quantization")
    layer, x = Int8Weight.of(heavy_tailed(320, 48)), torch.randn(5, 320)
    theirs = torchao.Int8Tensor(layer.weight, layer.scale[:, None], [1, 320], torch.float32)
    expected = torch.nn.functional.linear(x, theirs, layer.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-5)


def test_torchao_leaves_the_range_of_float16_where_this_does_not() -> None:
    """Why the product is not torchao's: it multiplies tokens by codes before the scale."""
    torchao = pytest.importorskip("torchao.quantization")
    source = Linear(256, 16, bias=False)
    source.weight.data.fill_(0.001)
    layer, x = Int8Weight.of(source), torch.full((2, 256), 1000.0, dtype=torch.float16)
    theirs = torchao.Int8Tensor(layer.weight, layer.scale[:, None], [1, 256], torch.float16)
    assert torch.nn.functional.linear(x, theirs).isinf().all()
    assert layer(x).isfinite().all()
