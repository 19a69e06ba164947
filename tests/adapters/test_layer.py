"""Layers with adapters against the papers' formulas in float64, over every kind of base."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.adapters.layer import Adapted, LowRank, dora_gain, merged_matrix
from sanakit.models.layers import Linear, Pointwise
from sanakit.quant import nf4
from sanakit.quant.fp8 import Float8
from sanakit.quant.int4 import Int4
from sanakit.quant.int8 import Int8Linear
from sanakit.quant.int8_weight import Int8Weight
from sanakit.quant.low_rank import LowRankInt4
from sanakit.quant.nf4 import NormalFloat4

K, N, RANK = 96, 72, 5
KINDS = [Int8Weight, Int4, LowRankInt4, Float8, NormalFloat4]
RUNS = [slice(None), slice(24), slice(24, None), slice(30, 50)]
TOLERANCE = 1e-5  # of the largest number: sums in float32


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4, "INSTALLED", False)


def linear(*, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    layer = Linear(K, N, bias=bias).requires_grad_(False)
    torch.nn.init.normal_(layer.weight, std=0.1)
    return layer


def part(seed: int, rows: slice = slice(0, N), scale: float = 0.7, weight: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(RANK, K, generator=generator) * 0.2
    up = torch.randn(rows.stop - rows.start, RANK, generator=generator) * 0.2
    made = LowRank(str(seed), down, up, scale, rows.start)
    made.weight = weight
    return made


def with_dora(layer: Linear, made: LowRank) -> LowRank:
    magnitude = 1 + torch.rand(len(made.up))
    gain = dora_gain(layer, magnitude, made.down, made.up, made.scale, made.start)
    own = layer.weight[made.start : made.start + len(made.up)].double()
    full = own + made.scale * made.up.double() @ made.down.double()
    torch.testing.assert_close(gain.double(), magnitude.double() / full.norm(dim=1), rtol=1e-6, atol=0)
    dora = LowRank(made.owner, made.down.data, made.up.data, made.scale, made.start, gain)
    dora.weight = made.weight
    return dora


def matrix(base: Tensor, *parts: LowRank) -> Tensor:
    """The matrix that a layer with these parts stands for, in float64."""
    whole = base.double().clone()
    for one in parts:
        rows = slice(one.start, one.start + len(one.up))
        full = base[rows].double() + one.scale * one.up.double() @ one.down.double()
        if one.gain is not None:
            full = one.gain.double()[:, None] * full
        whole[rows] += one.weight * (full - base[rows].double())
    return whole


def adapted(base, *parts: LowRank) -> Adapted:
    layer = Adapted(base)
    layer.adapters.extend(parts)
    return layer


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs).abs().max() / theirs.abs().max())


def several() -> list[LowRank]:
    return [part(1), part(2, slice(24, 48), weight=-1.5), part(3, slice(48, 72), scale=2.0, weight=0.3)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("run", RUNS)
def test_a_product_is_that_of_the_changed_matrix(run: slice, bias: bool) -> None:
    base = linear(bias=bias)
    parts = [*several(), with_dora(base, part(4, slice(24, 48), weight=0.5))]
    layer, x = adapted(base, *parts), torch.randn(2, 7, K)
    wanted = x.double() @ matrix(base.weight, *parts)[run].t()
    wanted += 0 if base.bias is None else base.bias[run].double()
    assert apart(layer.product(x, run), wanted) < TOLERANCE
    if run == slice(None):
        assert apart(layer(x), wanted) < TOLERANCE
        assert apart(merged_matrix(base, layer.adapters), matrix(base.weight, *parts)) < TOLERANCE


@pytest.mark.parametrize("kind", [*KINDS, Int8Linear])
def test_a_quantised_base_stays_as_it_is_below_the_change(kind) -> None:
    base, parts = kind.of(linear()), several()
    layer, x = adapted(base, *parts), torch.randn(3, 9, K)
    for run in RUNS:
        change = x.double() @ (matrix(base.dequantized(), *parts) - base.dequantized().double())[run].t()
        wanted = base.product(x, run).double() + change  # y = Q(W) x + s B (A x)
        assert apart(layer.product(x, run), wanted) < TOLERANCE


@pytest.mark.parametrize("kind", [Linear, Int8Linear, NormalFloat4])
@pytest.mark.parametrize("samples", [1, 3])
def test_norm_and_gated_sum_are_those_of_the_plain_product(kind, samples: int) -> None:
    base = linear() if kind is Linear else kind.of(linear())
    layer, x = adapted(base, *several()), torch.randn(2, 9, K)
    modulation = tuple(torch.randn(samples if samples == 1 else 2, 1, K) * 0.2 for _ in range(3))
    shift, scale, _ = (one.double() for one in modulation)
    normed = torch.nn.functional.layer_norm(x.double(), (K,), eps=1e-6) * (1 + scale) + shift
    wanted = layer.product(normed.float())
    # Int8Linear rounds tokens that differ by rounding: to another level here and there.
    assert apart(layer.modulated(x, modulation), wanted.double()) < (1e-2 if kind is Int8Linear else 1e-5)
    gate, into = torch.randn(1, 1, N), torch.randn(2, 9, N)
    total = into.double() + gate.double() * layer.product(x).double()
    layer.add_to(into, x, gate)
    assert apart(into, total) < TOLERANCE


def test_stands_in_for_a_pointwise_convolution() -> None:
    base = Pointwise(K, N).requires_grad_(False)
    layer, x = adapted(base, *several()), torch.randn(2, 7, K)
    wanted = x.double() @ matrix(base.conv.weight.flatten(1), *several()).t() + base.conv.bias.double()
    assert apart(layer.product(x), wanted) < TOLERANCE
    assert (layer.in_features, layer.out_features) == (K, N)


@pytest.mark.parametrize("kind", [Linear, Int8Linear, Int4])
def test_weight_0_is_the_base_bit_for_bit(kind) -> None:
    base = linear() if kind is Linear else kind.of(linear())
    layer, x = adapted(base, part(1, weight=0.0)), torch.randn(2, 9, K)
    modulation = tuple(torch.randn(1, 1, K) for _ in range(3))
    ours, theirs = torch.zeros(2, 9, N), torch.zeros(2, 9, N)
    layer.add_to(ours, x), base.add_to(theirs, x)
    assert torch.equal(ours, theirs)
    assert torch.equal(layer(x), base(x))
    assert torch.equal(layer.product(x, slice(5, 20)), base.product(x, slice(5, 20)))
    assert torch.equal(layer.modulated(x, modulation), base.modulated(x, modulation))


def test_a_layer_computes_in_the_dtype_of_its_tokens() -> None:
    layer = adapted(linear(), part(1))
    exact = layer.double()(torch.ones(1, K, dtype=torch.float64))
    for dtype in (torch.float32, torch.bfloat16):
        masters = adapted(linear().to(dtype), part(1))
        out = masters(torch.ones(1, K, dtype=dtype))
        assert out.dtype == dtype
        assert masters.adapters[0].down.dtype == torch.float32
        assert apart(out, exact) < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("kind", [Linear, Int8Linear, *KINDS])
def test_gradients_pass_through_a_frozen_base_to_tokens_and_adapter(kind) -> None:
    """Against the same product in float64, whose base is the dequantised matrix."""
    base = linear() if kind is Linear else kind.of(linear())
    dense = base.weight if kind is Linear else base.dequantized()
    made, x = part(1).requires_grad_(True), torch.randn(4, K, requires_grad=True)
    ahead = torch.randn(4, N)
    (adapted(base, made)(x) * ahead).sum().backward()

    leaves = [value.detach().double().requires_grad_() for value in (x, made.down, made.up)]
    tokens, down, up = leaves
    y = tokens @ dense.double().t() + made.scale * (tokens @ down.t()) @ up.t()
    (y * ahead).sum().backward()
    for ours, theirs in zip((x, made.down, made.up), leaves, strict=True):
        assert apart(ours.grad, theirs.grad) < TOLERANCE
    assert all(not parameter.requires_grad for parameter in base.parameters())
