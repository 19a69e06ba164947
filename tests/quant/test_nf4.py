"""4-bit NormalFloat: the bound of its code book, and bitsandbytes as the oracle and the other way through."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.layers import Linear
from sanakit.quant import nf4
from sanakit.quant.nf4 import BLOCK, LEVELS, NormalFloat4


def layer(inputs: int = 320, outputs: int = 48, *, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    made = Linear(inputs, outputs, bias=bias)
    torch.nn.init.normal_(made.weight, std=0.05)
    return made


def test_no_value_is_off_by_more_than_half_the_widest_gap_of_the_code_book() -> None:
    levels = torch.tensor(LEVELS)
    source = layer()
    x = source.weight.detach().unflatten(1, (-1, BLOCK))
    largest = x.abs().amax(-1, keepdim=True)
    error = (NormalFloat4.of(source).dequantized() - source.weight.detach()).abs().unflatten(1, (-1, BLOCK))
    # Each value lies between two levels of its block; the block's largest is off by 2^-11 (float16).
    upper = torch.bucketize(x / largest, levels).clamp(1, len(LEVELS) - 1)
    gap = (levels[upper] - levels[upper - 1]) * largest
    assert (error <= gap / 2 + 2**-10 * largest).all()


def test_levels_come_back_exactly() -> None:
    torch.manual_seed(0)
    weight = torch.tensor(LEVELS)[torch.randint(16, (6, 2 * BLOCK))]
    weight[:, ::BLOCK] = 1.0
    source = layer(2 * BLOCK, 6)
    source.weight.data = weight * 0.25
    assert torch.equal(NormalFloat4.of(source).dequantized(), weight * 0.25)


def test_code_book_is_that_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(functional.get_4bit_type("nf4", device="cpu"), torch.tensor(LEVELS))


def test_rounds_as_bitsandbytes_does() -> None:
    """Whose largest values stay float32: ours are off by 2^-11, which moves a few values over a boundary."""
    functional = pytest.importorskip("bitsandbytes.functional")
    source = layer()
    packed, state = functional.quantize_4bit(source.weight.detach(), blocksize=BLOCK, quant_type="nf4")
    ours = NormalFloat4.of(source)
    assert (ours.weight.flatten() == packed.flatten()).float().mean() > 0.98
    torch.testing.assert_close(ours.largest.flatten().float(), state.absmax, rtol=2**-11, atol=0)
    theirs, weight = functional.dequantize_4bit(packed, state), source.weight.detach()
    ratio = (ours.dequantized() - weight).norm() / (theirs - weight).norm()
    assert float(ratio) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("inputs", [320, 100, 7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("run", [slice(None), slice(5, 20)])
def test_bitsandbytes_multiplies_what_torch_does(
    monkeypatch: pytest.MonkeyPatch, inputs: int, bias: bool, run: slice
) -> None:
    pytest.importorskip("bitsandbytes")
    quantised, x = NormalFloat4.of(layer(inputs, bias=bias)), torch.randn(2, 3, inputs)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
        theirs = quantised.product(x.to(dtype), run)
        with monkeypatch.context() as patch:
            patch.setattr(nf4, "INSTALLED", False)
            ours = quantised.product(x.to(dtype), run)
        # The same weights in another order of sums, in 16 bits rounded on the way.
        torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance)


def test_bitsandbytes_takes_a_single_token_without_an_axis() -> None:
    pytest.importorskip("bitsandbytes")
    quantised, x = NormalFloat4.of(layer()), torch.randn(1, 320)
    torch.testing.assert_close(quantised(x[0]), quantised(x)[0], atol=1e-6, rtol=1e-6)


@pytest.mark.gpu
def test_gpu_multiplies_what_the_cpu_does() -> None:
    pytest.importorskip("bitsandbytes")
    quantised, x = NormalFloat4.of(layer()), torch.randn(64, 320).half()
    expected = quantised(x.float())
    y = quantised.to("cuda")(x.cuda()).cpu()
    torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=2**-8)
