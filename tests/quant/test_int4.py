"""Weights in 4 bits: what rounding may cost by its own arithmetic, and that least squares lowers it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.models.layers import Linear
from sanakit.quant import int4
from sanakit.quant.int4 import GROUP, Int4, encode, fit


def weights(outputs: int, inputs: int, *, tails: bool = False) -> Tensor:
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs) * 0.05
    return weight * torch.empty_like(weight).exponential_().rsqrt() if tails else weight


def layer_of(weight: Tensor) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def from_extremes(weight: Tensor) -> Tensor:
    """Plain rounding between the extremes of each group: within half of a 15th of the range."""
    x = weight.unflatten(1, (-1, GROUP))
    least, most = x.aminmax(dim=-1, keepdim=True)
    scale = (most - least) / 15
    return (((x - least) / scale).round() * scale + least).flatten(1)


def group_errors(matrix: Tensor, weight: Tensor) -> Tensor:
    return (matrix - weight).unflatten(1, (-1, GROUP)).square().mean(-1).sqrt()


def test_no_group_is_off_by_more_than_half_a_step() -> None:
    """Root mean square: least squares starts where that holds and never makes a group worse."""
    for tails in (False, True):
        weight = weights(48, 320, tails=tails)
        least, most = weight.unflatten(1, (-1, GROUP)).aminmax(dim=-1)
        errors = group_errors(Int4.of(layer_of(weight)).dequantized(), weight)
        # Scale and least value are float16: 15 steps and the offset are off by up to 2^-11 of themselves.
        assert (errors <= (most - least) / 30 + 2**-10 * torch.maximum(least.abs(), most.abs())).all()


def test_least_squares_beats_the_extremes() -> None:
    for tails in (False, True):
        weight = weights(48, 320, tails=tails)
        fitted, plain = Int4.of(layer_of(weight)).dequantized(), from_extremes(weight)
        assert (fitted - weight).norm() < 0.97 * (plain - weight).norm()
        worse = group_errors(fitted, weight) > group_errors(plain, weight) * 1.01  # but for float16
        assert not worse.any()


def test_least_squares_beats_half_quadratic_quantisation() -> None:
    """Against torchao's choice of scales for the same codes and groups."""
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    weight = weights(48, 320)
    codes, scale, zero, _ = primitives._choose_qparams_and_quantize_affine_hqq(
        weight, nbits=4, group_size=GROUP, axis=1, compute_dtype=torch.float32, device="cpu", raw_output=True
    )
    parts = (codes.float().reshape(-1, GROUP), zero.float().reshape(-1, 1), scale.float().reshape(-1, 1))
    theirs = ((parts[0] - parts[1]) * parts[2]).reshape(weight.shape)
    ours = Int4.of(layer_of(weight)).dequantized()
    assert (ours - weight).norm() < (theirs - weight).norm()


def test_what_4_bits_can_say_comes_back_exactly() -> None:
    """Codes times a power of two, with all 16 codes in each group."""
    torch.manual_seed(0)
    codes = torch.stack([torch.cat([torch.arange(16)] * 4)[torch.randperm(GROUP)] for _ in range(12)])
    weight = (codes.float() * 0.25 - 2).reshape(4, 3 * GROUP)
    assert torch.equal(Int4.of(layer_of(weight)).dequantized(), weight)


def test_groups_of_one_value_come_back() -> None:
    weight = torch.full((3, 100), 0.37).half().float()
    assert torch.equal(Int4.of(layer_of(weight)).dequantized(), weight)


def test_a_last_group_that_is_not_full_has_a_scale_of_its_own() -> None:
    weight = weights(48, GROUP + 10)
    weight[:, GROUP:] *= 1e-3
    matrix = Int4.of(layer_of(weight)).dequantized()
    assert (matrix - weight)[:, GROUP:].norm() < 0.1 * weight[:, GROUP:].norm()


def test_two_codes_lie_in_a_byte() -> None:
    layer = Int4.of(layer_of(weights(8, 130)))
    assert layer.weight.shape == (8, 3 * GROUP // 2)
    assert (layer.scale.shape, layer.scale.dtype) == ((8, 3), torch.float16)
    codes, scale, least = fit(weights(8, 130))
    packed = int4.pack(codes)
    assert torch.equal(packed[:, 0], (codes[:, 0, 0] + 16 * codes[:, 0, GROUP // 2]).to(torch.uint8))
    assert torch.equal(encode(codes * scale + least, scale.float(), least.float()), codes)
