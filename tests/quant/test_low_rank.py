"""The correction of low rank takes out what carries much, and never makes 4 bits worse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.models.layers import Linear
from sanakit.quant.int4 import Int4
from sanakit.quant.low_rank import LowRankInt4, leading


def layer_of(weight: Tensor) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def matrix(outputs: int, inputs: int, *, directions: int, strength: float) -> Tensor:
    """Normal values and a few directions on top, each as large as `strength` times all the rest."""
    torch.manual_seed(0)
    rest = torch.randn(outputs, inputs)
    left = torch.linalg.qr(torch.randn(outputs, directions)).Q
    right = torch.linalg.qr(torch.randn(inputs, directions)).Q
    return 0.05 * (rest + strength * rest.norm() * left @ right.t())


def error(kind: type[Int4], weight: Tensor) -> float:
    return float((kind.of(layer_of(weight)).dequantized() - weight).norm())


def test_a_few_strong_directions_cost_nothing() -> None:
    """What is left is the error of the rest: 4 bits alone pay for the whole range."""
    weight = matrix(384, 256, directions=3, strength=2.0)
    rest = matrix(384, 256, directions=3, strength=0.0)
    assert error(LowRankInt4, weight) < 0.4 * error(Int4, weight)
    assert error(LowRankInt4, weight) == pytest.approx(error(Int4, rest), rel=0.15)


def test_normal_values_gain_a_little() -> None:
    weight = matrix(384, 256, directions=1, strength=0.0)
    assert error(LowRankInt4, weight) < error(Int4, weight)


def test_rank_is_a_small_part_of_the_narrower_side() -> None:
    assert LowRankInt4.of(layer_of(torch.randn(2048, 1100))).up.shape == (2048, 32)
    assert LowRankInt4.of(layer_of(torch.randn(96, 640))).down.shape == (3, 640)
    assert LowRankInt4.of(layer_of(torch.randn(5, 7))).down.shape == (1, 7)


def test_leading_part_is_that_of_the_singular_value_decomposition() -> None:
    """With a gap after the third direction, power iterations converge by that gap squared each."""
    weight = matrix(96, 64, directions=3, strength=2.0)
    up, down = leading(weight, torch.randn(3, 64), 6)
    left, values, right = torch.linalg.svd(weight)
    torch.testing.assert_close(up @ down, left[:, :3] * values[:3] @ right[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(up.t() @ up, torch.eye(3), atol=1e-5, rtol=0)
