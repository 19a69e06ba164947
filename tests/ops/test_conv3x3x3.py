"""The 3x3x3 convolution of frames: the kernel of every instruction set and its plain twin against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.ops.conv3x3x3 import conv3x3x3

WINOGRAD = 5e-5  # largest error over largest value, as for the 3x3 one; seen: 1.2e-5
CASES = [  # B, T, R, W, C, K, above, below
    (1, 5, 21, 18, 32, 40, 1, 1),
    (2, 3, 17, 13, 8, 37, 0, 1),
    (1, 8, 20, 21, 3, 32, 1, 0),
    (1, 6, 20, 20, 48, 3, 0, 0),
    (3, 4, 13, 16, 33, 20, 0, 0),
]


def by_torch(frames: Tensor, weight: Tensor, bias: Tensor | None, above: int, below: int) -> Tensor:
    x = F.pad(frames.double().permute(0, 4, 1, 2, 3), (1, 1, 1 - above, 1 - below))
    y = F.conv3d(x, weight.double(), None if bias is None else bias.double())
    return y.permute(0, 2, 3, 4, 1)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_kernel_equals_torch(case: tuple[int, ...]) -> None:
    batch, frames, rows, columns, channels, outputs, above, below = case
    x = torch.randn(batch, frames + 2, rows, columns, channels)
    weight, bias = torch.randn(outputs, channels, 3, 3, 3), torch.randn(outputs)
    for b in (bias, None):
        wanted = by_torch(x, weight, b, above, below)
        got = conv3x3x3(x, weight, b, above=above, below=below)
        assert got.shape == wanted.shape
        assert got.dtype == torch.float32
        assert (got - wanted).abs().max() < WINOGRAD * wanted.abs().max()


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_weights_of_16_bits_are_widened_exactly() -> None:
    x, weight = torch.randn(1, 6, 16, 16, 32), torch.randn(32, 32, 3, 3, 3)
    for stored in (torch.bfloat16, torch.float16):
        assert torch.equal(conv3x3x3(x, weight.to(stored)), conv3x3x3(x, weight.to(stored).float()))


@pytest.mark.parametrize("case", CASES)
def test_the_plain_twin_equals_torch_to_rounding(case: tuple[int, ...]) -> None:
    batch, frames, rows, columns, channels, outputs, above, below = case
    x = torch.randn(batch, frames + 2, rows, columns, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, channels, 3, 3, 3, dtype=torch.float64)
    wanted = by_torch(x, weight, None, above, below)
    got = conv3x3x3(x, weight, above=above, below=below)
    assert (got - wanted).abs().max() < 1e-13 * wanted.abs().max()
    assert got.requires_grad


def test_shapes_that_do_not_fit_are_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError):
        conv3x3x3(torch.zeros(1, 4, 40, 40, 32), torch.zeros(32, 33, 3, 3, 3))
    assert conv3x3x3(torch.zeros(0, 4, 8, 8, 32), torch.zeros(32, 32, 3, 3, 3)).shape == (0, 2, 8, 8, 32)
