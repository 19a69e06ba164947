"""The int8 kernel against its plain twin: every instruction set, 1 to 3 threads; values that stand out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.ops.linear_int8 import OUTLYING, _plain, add_linear_int8_, linear_int8, quantize_rows

ERROR = 1e-6  # largest difference, relative to the largest value
NOISE = OUTLYING / 127 / 12**0.5  # of rounding, relative to a row without its outliers


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def rounded(rows: int, channels: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, the first with a value that stands out, the last nothing; a matrix in 8 bits; a bias."""
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
def test_an_outlier_costs_neither_its_row_nor_others_their_bits() -> None:
    x, weight, scale, bias = rounded(70, 1024, 20)
    both = linear_int8(x, weight, scale, bias)
    torch.testing.assert_close(both[1:], linear_int8(x[1:], weight, scale, bias), rtol=0, atol=0)
    exact = torch.nn.functional.linear(x, weight * scale[:, None], bias)
    error = (both - exact).norm(dim=1) / exact.norm(dim=1)
    assert error[0] < 1.5 * NOISE * float(x[0, 1:].norm() / x[0].norm())
    assert error[1:-1].max() < 1.5 * NOISE
    torch.testing.assert_close(both[-1], bias, rtol=0, atol=0)


def peaks(*sizes: float, each: int = 60, channels: int = 4096) -> Tensor:
    """A row of normal values with some of each of several sizes among them: as many as can stand out."""
    row = drawn(channels)
    places = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
    for size, at in zip(sizes, places.split(each), strict=False):
        row[at] *= size
    return row


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "row",
    [
        peaks(1e2),
        peaks(1e2, 1e4),
        peaks(1e2, 1e4, 1e6, 1e8),  # more than are looked for, and more than 16 bits
        peaks(1e2, each=1000),  # too many to stand out
        peaks(1e8, each=1) * 1e-4,
        peaks(0, 1, each=4090),  # hardly anything else
        drawn(4096) * 1e-25,  # whose squares are nothing
        drawn(4096) * 1e-35,
        torch.full((4096,), -3.0),
    ],
)
def test_rows_with_outliers_equal_the_twin(row: Tensor) -> None:
    x = torch.stack([row, drawn(4096), -row])
    weight, scale = quantize_rows(drawn(37, 4096))
    ours, plain = linear_int8(x, weight, scale), _plain(x, weight, scale, None, None)
    for one, expected in zip(ours, plain, strict=True):
        assert distance(one, expected) < 4 * ERROR  # of float sums of 4,096 values of up to 16 bits


@pytest.mark.usefixtures("kernels")
def test_what_is_next_to_nothing_is_nothing() -> None:
    weight, scale = quantize_rows(drawn(5, 64))
    assert linear_int8(drawn(3, 64) * 1e-40, weight, scale).abs().max() < 1e-36


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_shows_what_is_no_number(value: float) -> None:
    x, weight, scale, bias = rounded(5, 40, 9)
    x[2, 7] = value
    assert linear_int8(x, weight, scale, bias).isfinite().all(1).tolist() == [True, True, False, True, True]


def distance(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())
