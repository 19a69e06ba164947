"""silu(x / |x| * weight): the kernel of every instruction set against torch's operations in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sanakit.ops.norm_silu import norm_silu


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("width", [1, 7, 16, 96, 100])
@torch.no_grad()
def test_the_kernel_equals_torch(width: int) -> None:
    x, weight = 1e3 * torch.randn(3, 5, width), 10 * torch.randn(width)
    wanted = F.silu(F.normalize(x.double(), dim=-1) * weight.double())
    got = norm_silu(x, weight)
    assert got.dtype == torch.float32
    assert (got - wanted).abs().max() < 1e-6 * wanted.abs().max()


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_zeros_tiny_values_and_nan_are_what_torch_makes_of_them() -> None:
    x, weight = torch.zeros(3, 8), torch.full((8,), 3.0)
    x[1], x[2, 4] = 1e-14, float("nan")
    torch.testing.assert_close(norm_silu(x, weight), F.silu(F.normalize(x) * weight), equal_nan=True)


def test_bfloat16_is_normalised_in_float32() -> None:
    x, weight = torch.randn(4, 64).bfloat16(), torch.ones(64).bfloat16()
    assert torch.equal(norm_silu(x, weight), F.silu(F.normalize(x.float(), dim=-1).bfloat16() * weight))
