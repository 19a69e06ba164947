"""What every layer that keeps its weight alone in few bits has to do, whichever the bits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from sanakit.models.layers import Linear, Pointwise
from sanakit.quant import nf4
from sanakit.quant.fp8 import Float8
from sanakit.quant.int4 import Int4
from sanakit.quant.int8_weight import Int8Weight
from sanakit.quant.layer import Quantized, matrix_of
from sanakit.quant.low_rank import LowRankInt4
from sanakit.quant.nf4 import NormalFloat4

KINDS = [Int8Weight, Int4, LowRankInt4, Float8, NormalFloat4]
# Largest relative error of a matrix of normal values, root mean square: half a step of uniform rounding is
# 0.29 steps, and so on; measured values lie a tenth below.
ERROR = {Int8Weight: 0.01, Int4: 0.095, LowRankInt4: 0.09, Float8: 0.03, NormalFloat4: 0.1}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bitsandbytes, whose product `test_nf4.py` compares."""
    monkeypatch.setattr(nf4, "INSTALLED", False)


def linear(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> Linear:
    torch.manual_seed(seed)
    layer = Linear(inputs, outputs, bias=bias)
    torch.nn.init.normal_(layer.weight, std=0.05)
    return layer


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@every_kind
@pytest.mark.parametrize("shape", [(256, 192), (128, 32), (100, 37), (65, 8), (20, 3), (1, 1)])
def test_stands_for_a_near_matrix_of_the_same_shape(kind: type[Quantized], shape: tuple[int, int]) -> None:
    layer = linear(*shape)
    matrix = kind.of(layer).dequantized()
    assert matrix.shape == layer.weight.shape
    assert matrix.dtype == torch.float32
    assert relative(matrix, layer.weight) < ERROR[kind]


@every_kind
@pytest.mark.parametrize("bias", [True, False])
def test_product_is_that_of_its_matrix(kind: type[Quantized], bias: bool) -> None:
    layer = kind.of(linear(100, 37, bias=bias))
    x = torch.randn(2, 5, 100)
    expected = x.double() @ layer.dequantized().double().t()
    if layer.bias is not None:
        expected += layer.bias
    assert (layer.bias is not None) == bias
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)  # sums in float32


@every_kind
def test_a_single_token_may_come_without_an_axis(kind: type[Quantized]) -> None:
    """As the value of a one-token prompt does."""
    layer, x = kind.of(linear(100, 48)), torch.randn(1, 100)
    torch.testing.assert_close(layer(x[0]), layer(x)[0], atol=1e-6, rtol=1e-6)


@every_kind
def test_a_run_of_outputs_is_that_part_of_the_whole(kind: type[Quantized]) -> None:
    layer, x = kind.of(linear(100, 48)), torch.randn(7, 100)
    for run in (slice(16), slice(16, None), slice(3, 20)):
        torch.testing.assert_close(layer.product(x, run), layer.product(x)[:, run], atol=1e-6, rtol=1e-6)


@every_kind
def test_stands_in_for_a_pointwise_convolution(kind: type[Quantized]) -> None:
    layer, twin = Pointwise(64, 48), linear(64, 48)
    torch.nn.init.normal_(layer.conv.weight)
    twin.load_state_dict({"weight": layer.conv.weight.flatten(1), "bias": layer.conv.state_dict()["bias"]})
    x = torch.randn(1, 4, 3, 64)
    assert torch.equal(kind.of(layer).product(x), kind.of(twin).product(x))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_in_the_dtype_of_the_tokens(kind: type[Quantized], dtype: torch.dtype) -> None:
    layer, x = kind.of(linear(256, 48)), torch.randn(9, 256)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    # Tokens, weight and result are rounded: a few times 2^-9 of bfloat16.
    assert relative(y.float(), layer(x)) < 0.01


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_stored_weight_in_16_bits_gives_what_its_float32_copy_gives(
    kind: type[Quantized], dtype: torch.dtype
) -> None:
    layer = linear(128, 48).to(dtype)
    ours, twin = kind.of(layer), kind.of(linear(128, 48).to(dtype).float())
    assert torch.equal(ours.dequantized(), twin.dequantized())


@every_kind
def test_a_file_holds_all_of_it(kind: type[Quantized]) -> None:
    source = linear(100, 48)
    layer = kind.of(source)
    stored = load(save(layer.state_dict()))
    again = kind.empty(Linear(100, 48, device="meta"))
    infos = {name: (tensor.shape, tensor.dtype) for name, tensor in again.state_dict().items()}
    assert infos == {name: (tensor.shape, tensor.dtype) for name, tensor in stored.items()}
    assert all(tensor.is_meta for tensor in again.state_dict().values())
    again.load_state_dict(stored, assign=True)
    x = torch.randn(5, 100)
    assert torch.equal(again(x), layer(x))


@every_kind
def test_the_same_weight_gives_the_same_bits(kind: type[Quantized]) -> None:
    layer = linear(128, 48)
    first = kind.of(layer).state_dict()
    torch.rand(3)  # no state of the generator plays a part
    second = kind.of(layer).state_dict()
    assert all(
        torch.equal(first[name].flatten().view(torch.uint8), second[name].flatten().view(torch.uint8))
        for name in first
    )


@every_kind
def test_zeros_stay_zeros(kind: type[Quantized]) -> None:
    layer = linear(100, 48)
    layer.weight.data.zero_()
    assert kind.of(layer).dequantized().count_nonzero() == 0
    layer = linear(128, 48)
    layer.weight.data[5] = 0  # one dead channel among others
    assert kind.of(layer).dequantized()[5].abs().max() <= (2e-3 if kind is LowRankInt4 else 0)


@every_kind
def test_an_outlier_costs_its_neighbours_only(kind: type[Quantized]) -> None:
    """One value 200 times the others' spread: rows without it are what they were, and it stays what it is."""
    layer = linear(256, 48)
    before = kind.of(layer).dequantized()
    layer.weight.data[7, 100] = 10.0
    after = kind.of(layer).dequantized()
    assert abs(float(after[7, 100]) - 10) < 10 / 16
    others = torch.arange(48) != 7
    if kind is LowRankInt4:  # whose correction is shared by all rows
        assert relative(after[others], matrix_of(layer)[0][others]) < ERROR[kind]
    else:
        assert torch.equal(after[others], before[others])


@every_kind
def test_large_tokens_in_float16_stay_in_range(kind: type[Quantized]) -> None:
    """Products of codes with tokens, before their scale, would not: 127 codes times 1000 leave float16."""
    layer = linear(256, 16, bias=False)
    layer.weight.data.fill_(0.001)
    y = kind.of(layer)(torch.full((2, 256), 1000.0, dtype=torch.float16))
    torch.testing.assert_close(y.float(), torch.full_like(y, 256.0).float(), rtol=2e-3, atol=0)
