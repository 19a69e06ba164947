"""The int8 kernel against its plain twin, for every instruction set, 1 to 3 threads; what 16 bits are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.ops.linear_int8 import TOLERANCE, _plain, add_linear_int8_, linear_int8, quantize_rows

ERROR = 1e-6  # largest difference, relative to the largest value


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def rounded(rows: int, channels: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, of which the first needs 16 bits and the last is nothing; a matrix in 8 bits; a bias."""
    x = drawn(rows, channels)
    x[0, 0] *= 1000
    x[-1] = 0
    return (x, *quantize_rows(drawn(outputs, channels)), drawn(outputs))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 17, 5), (33, 70, 45), (64, 300, 14), (130, 48, 29)])
def test_equals_its_twin(sizes: tuple[int, int, int]) -> None:
    # The twin is told the same float32 values: in another precision some would round to the next level.
    x, weight, scale, bias = rounded(*sizes)
    gain, shift = drawn(sizes[1]), drawn(1, sizes[1])[0]
    gate, residual = drawn(sizes[2]), drawn(sizes[0], sizes[2])
    plain = _plain(x, weight, scale, bias, None)
    assert distance(linear_int8(x, weight, scale, bias), plain) < ERROR
    added = residual.clone()
    add_linear_int8_(added, x, weight, scale, bias, gate)
    assert distance(added, residual + gate * plain) < ERROR
    added = residual.clone()
    add_linear_int8_(added, x, weight, scale)
    assert distance(added, residual + _plain(x, weight, scale, None, None)) < ERROR
    norm = (gain, shift, 1e-6)
    normed = linear_int8(x, weight, scale, bias, norm=norm)
    # A value within rounding of the middle of two levels may take the other one: one level of one row.
    assert distance(normed, _plain(x, weight, scale, bias, norm)) < 2 / 127


@pytest.mark.usefixtures("kernels")
def test_leaves_rows_alone_that_need_no_more_bits() -> None:
    x, weight, scale, bias = rounded(70, 1024, 20)
    both = linear_int8(x, weight, scale, bias)
    torch.testing.assert_close(both[1:], linear_int8(x[1:], weight, scale, bias), rtol=0, atol=0)
    exact = torch.nn.functional.linear(x, weight * scale[:, None], bias)
    error = (both - exact).norm(dim=1) / exact.norm(dim=1)
    assert error[0] < 5e-4  # 16 bits: steps 256 times as fine, by the outlier 8 times as coarse
    assert error[1:-1].max() < TOLERANCE
    torch.testing.assert_close(both[-1], bias, rtol=0, atol=0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_shows_what_is_no_number(value: float) -> None:
    x, weight, scale, bias = rounded(5, 40, 9)
    x[2, 7] = value
    assert linear_int8(x, weight, scale, bias).isfinite().all(1).tolist() == [True, True, False, True, True]


def distance(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())
