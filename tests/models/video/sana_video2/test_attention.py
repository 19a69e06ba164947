"""The two kinds of attention over all pairs of tokens in float64, and what each depends on."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.video.sana_video2.attention import GatedLinearAttention, GatedSoftmaxAttention
from sanakit.ops.rotary_linear_attention import rotations
from tests.models.video.sana_video2.written_out import apart, attend

KINDS = {"linear": GatedLinearAttention, "softmax": GatedSoftmaxAttention}


def drawn(kind: str, width: int = 16):
    torch.manual_seed(0)
    module = KINDS[kind](32, width).double()
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    turns = rotations(range(3), 2, 2, width).flatten(0, 1)
    return module, torch.randn(2, 12, 32, dtype=torch.float64), turns


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_queries_find_is_what_all_pairs_give(kind):
    module, x, turns = drawn(kind)
    weights = {f"attn.{name}": tensor for name, tensor in module.state_dict().items()}
    wanted = torch.stack([attend(weights, "attn", one, turns.angle(), 16, kind == "softmax") for one in x])
    assert apart(module(x, turns), wanted) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_only_distances_between_places_count(kind):
    module, x, turns = drawn(kind)
    moved = rotations(range(5, 8), 2, 2, 16).flatten(0, 1)
    assert apart(module(x, moved), module(x, turns)) < 1e-9
    assert apart(module(x, turns.flip(0)), module(x, turns)) > 1e-3


@torch.no_grad()
def test_keys_that_are_weighed_down_are_hardly_seen():
    """A beta of almost zero takes a token out of the numerator, and leaves it in the denominator."""
    module, x, turns = drawn("linear")
    module.beta_proj.weight.zero_()
    module.beta_proj.bias.fill_(30.0)
    module.o_norm.eps = 1e-30
    all_seen = module(x, turns)
    module.beta_proj.bias.fill_(-10.0)
    assert apart(module(x, turns), all_seen) < 1e-9  # all alike: the norm behind it takes it out
    module.beta_proj.bias.fill_(0.0)
    module.beta_proj.weight.normal_(std=3.0)
    assert apart(module(x, turns), all_seen) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_autocast_leaves_sums_over_tokens_in_float32(kind):
    module, x, turns = drawn(kind)
    module, x = module.float(), x.float()
    plain, turns = module(x, turns.to(torch.complex64)), turns.to(torch.complex64)
    with torch.autocast("cpu", torch.bfloat16):
        assert apart(module(x, turns).float(), plain) < 0.05
