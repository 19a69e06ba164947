"""Activations with heavy tails, as trained transformers have them: int8 stays near float32 whatever comes in.

Rounding a token to 8 bits adds noise of at most 8 / (127 sqrt(12)) = 1.8 % of the root mean square of what
does not stand out in it (ops/linear_int8.py). Rounding normally distributed weights, the largest of 1152
within 5 standard deviations, adds 5 / (127 sqrt(12)) = 1.1 %. Both are independent of the weights: the root
of 1.8^2 + 1.1^2 is 2.1 % of a token's result, whose 256 outputs show it to a tenth or so: 3 % is the bound.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.models.layers import Linear
from sanakit.quant.int8 import Int8Linear

BOUND = 0.03
TOKENS, CHANNELS, OUTPUTS = 64, 1152, 256
OUTLYING, LARGE = [7, 300, 1100], 100.0  # channels, and how many times the others they are


def layer() -> Linear:
    torch.manual_seed(0)
    made = Linear(CHANNELS, OUTPUTS).requires_grad_(False)
    made.weight.data = torch.randn(OUTPUTS, CHANNELS) * CHANNELS**-0.5
    return made


def tokens(kind: str) -> Tensor:
    """1 N K, normally distributed but for what the kind says."""
    x = torch.randn(1, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))
    if kind in ("channels", "both"):
        x[..., OUTLYING] *= LARGE
    if kind in ("tokens", "both"):
        x[:, [0, 40]] *= LARGE
    if kind == "one value":
        x[0, 3, 5] = 1e6
    if kind == "tail":  # Student's t with 2 degrees of freedom, which has no variance
        x /= torch.empty_like(x).exponential_(generator=torch.Generator().manual_seed(2)).sqrt()
    return x


def errors(y: Tensor, exact: Tensor) -> Tensor:
    """Root mean square of each token's error, relative to its result."""
    return (y - exact).norm(dim=-1) / exact.norm(dim=-1)


@pytest.mark.parametrize("kind", ["none", "channels", "tokens", "both", "one value", "tail"])
def test_every_token_is_near_its_float_result(kind: str) -> None:
    exact, x = layer(), tokens(kind)
    assert errors(Int8Linear.of(exact)(x), exact(x)).max() < BOUND


def test_outlying_channels_that_the_weights_silence_do_not_drown_the_others() -> None:
    """The hardest case: all that makes the scale of the tokens large is nothing in the result."""
    exact, x = layer(), tokens("channels")
    exact.weight.data[:, OUTLYING] = 0
    quantised = Int8Linear.of(exact)
    assert errors(quantised(x), exact(x)).max() < BOUND
    # Eight bits for every token, as plain W8A8 has it, lose most of it: the case is a hard one.
    scale = x.abs().amax(-1, keepdim=True) / 127
    plain = F.linear((x / scale).round() * scale, quantised.dequantized(), exact.bias)
    assert errors(plain, exact(x)).mean() > 5 * BOUND


def test_an_outlying_token_changes_no_other() -> None:
    quantised = Int8Linear.of(layer())
    one, other = quantised(tokens("none"))[0], quantised(tokens("tokens"))[0]
    rest = [i for i in range(TOKENS) if i not in (0, 40)]
    assert torch.equal(one[rest], other[rest])
    assert not torch.equal(one[0], other[0])


def test_modulation_that_blows_up_channels_is_met_too() -> None:
    """Where outliers of a block come from: the norm's gain, applied on the way to the rounding."""
    exact, x = layer(), tokens("tail")
    shift, scale = torch.zeros(1, 1, CHANNELS), torch.zeros(1, 1, CHANNELS)
    scale[..., OUTLYING], shift[..., 9] = LARGE, LARGE
    modulation = (shift, scale, scale)
    quantised = Int8Linear.of(exact)
    assert errors(quantised.modulated(x, modulation), exact.modulated(x, modulation)).max() < BOUND


@pytest.mark.parametrize("kind", ["channels", "tail"])
def test_gated_sum_is_as_near(kind: str) -> None:
    exact, x = layer(), tokens(kind)
    gate = torch.randn(1, 1, OUTPUTS)
    expected, found = torch.zeros(2, 1, TOKENS, OUTPUTS)
    exact.add_to(expected, x, gate)
    Int8Linear.of(exact).add_to(found, x, gate)
    assert errors(found, expected).max() < BOUND
