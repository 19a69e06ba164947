"""The layer in 8 bits against its float twin; what the kernel computes is in tests/ops/test_kernels.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.models.layers import Linear, Pointwise
from sanakit.quant.int8 import Int8Linear

NOISE = 0.02  # weights and tokens of 64 values, normally distributed, in 8 bits


@pytest.fixture(params=[(Linear, True), (Linear, False), (Pointwise, True), (Pointwise, False)], ids=str)
def layer(request: pytest.FixtureRequest) -> Linear | Pointwise:
    kind, bias = request.param
    torch.manual_seed(0)
    return kind(64, 48, bias=bias).requires_grad_(False)


def close(ours: Tensor, exact: Tensor) -> bool:
    assert ours.shape == exact.shape
    return bool((ours - exact).norm() < NOISE * exact.norm())


def test_the_matrix_is_within_half_a_level(layer: Linear | Pointwise) -> None:
    quantised = Int8Linear.of(layer)
    weight = (layer.conv if isinstance(layer, Pointwise) else layer).weight.flatten(1)
    apart = (quantised.dequantized() - weight).abs()
    assert (apart <= quantised.scale[:, None] * 0.5001).all()
    assert quantised.weight.abs().amax(1).eq(127).all()  # all of the range is used


def test_products_are_close(layer: Linear | Pointwise) -> None:
    quantised, x = Int8Linear.of(layer), torch.randn(2, 5, 64)
    assert close(quantised(x), layer.product(x))
    some = slice(16, 40)
    torch.testing.assert_close(quantised.product(x, some), quantised(x)[..., some])


@pytest.mark.parametrize("times", [1, 3])  # one time for all samples, or one each
def test_norm_modulation_and_gate_come_with_the_product(layer: Linear | Pointwise, times: int) -> None:
    quantised, x = Int8Linear.of(layer), torch.randn(3, 5, 64)
    modulation = (torch.randn(times, 1, 64), torch.randn(times, 1, 64), torch.randn(times, 1, 48))
    assert close(quantised.modulated(x, modulation), layer.modulated(x, modulation))
    residual = torch.randn(3, 5, 48)
    for gate in (modulation[2], None):
        ours, exact = residual.clone(), residual.clone()
        quantised.add_to(ours, x, gate)
        layer.add_to(exact, x, gate)
        assert close(ours - residual, exact - residual)


def test_a_row_of_nothing_stays_nothing() -> None:
    layer = Linear(8, 4, bias=False).requires_grad_(False)
    layer.weight[1] = 0
    assert Int8Linear.of(layer)(torch.randn(3, 8))[:, 1].eq(0).all()


def test_a_view_of_tokens_is_added_to_in_place() -> None:
    """A band of one sample's rows lies between others; those of several samples are not in one piece."""
    layer = Linear(64, 64).requires_grad_(False)
    quantised, gate = Int8Linear.of(layer), torch.ones(1, 1, 64)
    whole = torch.zeros(2, 6, 64)
    quantised.add_to(whole[:, 2:4], torch.ones(2, 2, 64), gate)
    assert whole[:, [0, 1, 4, 5]].eq(0).all()
    assert whole[:, 2:4].ne(0).all()


def test_an_empty_layer_has_the_names_shapes_and_dtypes_of_a_full_one(layer: Linear | Pointwise) -> None:
    empty, full = (made.state_dict() for made in (Int8Linear.empty(layer), Int8Linear.of(layer)))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in empty.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in full.items()
    }
    assert all(tensor.is_meta for tensor in empty.values())
