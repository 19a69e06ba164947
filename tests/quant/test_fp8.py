"""8-bit floats: the bound of their format, and the product that a GPU does, computed here on the CPU."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.layers import Linear
from sanakit.quant.fp8 import Float8, multiplies_float8, round_rows


def layer(inputs: int = 320, outputs: int = 48, *, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    made = Linear(inputs, outputs, bias=bias)
    made.weight.data = torch.randn_like(made.weight) * torch.empty_like(made.weight).exponential_().rsqrt()
    return made


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_no_value_is_off_by_more_than_a_16th(scale: float) -> None:
    """Three bits of mantissa: half of 2^-3; below 2^-6 of the scale steps are 2^-9 of it."""
    source = layer()
    source.weight.data *= scale
    weight = source.weight.detach()
    quantised = Float8.of(source)
    bound = torch.maximum(weight.abs() * 2**-4, quantised.scale[:, None] * 2**-10)
    assert ((quantised.dequantized() - weight).abs() <= bound * (1 + 1e-5)).all()


def test_the_largest_of_a_row_is_kept() -> None:
    x = layer().weight.detach()
    rounded, scale = round_rows(x)
    assert (rounded.float().abs().amax(1) == 448).all()
    torch.testing.assert_close((rounded.float() * scale).abs().amax(1), x.abs().amax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", [slice(None), slice(16, 48)])
def test_scaled_product_is_that_of_the_rounded_tokens(dtype: torch.dtype, run: slice) -> None:
    quantised, x = Float8.of(layer()), torch.randn(2, 3, 320).to(dtype)
    tokens, scale = round_rows(x.flatten(0, 1))
    expected = (tokens.float() * scale) @ quantised.dequantized()[run].t()
    y = quantised.scaled_product(x, run)
    assert y.dtype == dtype
    assert y.shape == (2, 3, len(range(48)[run]))
    bias = quantised.bias[run].bfloat16() if quantised.bias is not None else 0
    # Given by way of bfloat16: 2^-9 of the result, and once more for the bias.
    torch.testing.assert_close(y.float().flatten(0, 1), expected + bias, rtol=2**-7, atol=2**-7)


def test_scaled_product_of_a_single_token_needs_no_other_axis() -> None:
    quantised, x = Float8.of(layer()), torch.randn(1, 320)
    assert torch.equal(quantised.scaled_product(x[0]), quantised.scaled_product(x)[0])


def test_scaled_product_is_near_the_one_with_whole_tokens() -> None:
    """e4m3 takes up to 2^-4 of a token's value, of random sign: 2.6 % of the product, root mean square."""
    quantised, x = Float8.of(layer(bias=False)), torch.randn(64, 320)
    whole, scaled = quantised(x), quantised.scaled_product(x)
    assert (scaled - whole).norm() < 0.035 * whole.norm()


def test_an_outlier_among_tokens_leaves_the_others_their_precision() -> None:
    """What 8-bit integers lack: values 1/1000 of the largest keep their three bits."""
    x = torch.rand(4, 320) + 0.5
    x[:, 7] = 1000.0
    rounded, scale = round_rows(x)
    assert (((rounded.float() * scale) - x).abs() <= 2**-4 * x).all()


def test_product_equals_torchao() -> None:
    """torchao's Float8Tensor with the same numbers and rounding of tokens by row."""
    torchao = pytest.importorskip("torchao.quantization")
    from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs

    quantised, x = Float8.of(layer()), torch.randn(5, 320)
    theirs = torchao.Float8Tensor(
        quantised.weight,
        quantised.scale[:, None],
        block_size=[1, 320],
        mm_config=torchao.Float8MMConfig(use_fast_accum=True),
        act_quant_kwargs=QuantizeTensorToFloat8Kwargs(),
        dtype=torch.float32,
    )
    expected = torch.nn.functional.linear(x, theirs, quantised.bias)
    # Ours is given by way of bfloat16: 2^-9 of the result and of the bias.
    torch.testing.assert_close(quantised.scaled_product(x), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.gpu
def test_gpu_multiplies_what_the_cpu_does() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    if not multiplies_float8(device):
        pytest.skip("this GPU has no float8 units")
    quantised, x = Float8.of(layer()), torch.randn(128, 320)
    expected = quantised.scaled_product(x)
    y = quantised.to(device)(x.to(device)).cpu()
    torch.testing.assert_close(y, expected, rtol=2**-6, atol=2**-5)
