"""Three policies: what they share, what follows, and drafts in few bits that are made of the old one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.models.sana import Sana
from sanakit.quant.layer import Quantized
from sanakit.quant.plans import PLANS
from sanakit.train.reinforce.policies import OLD, Policies
from sanakit.train.state.average import Average
from tests.train.reinforce.small import parts, policies

both = pytest.mark.parametrize("whole", [False, True])


@torch.no_grad()
def velocity(transformer: Sana) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 2, 2, generator=generator), torch.randn(2, 3, 32, generator=generator)
    return transformer(latents, torch.tensor([0.3, 0.8]), text, torch.ones(2, 3, dtype=torch.bool))


def made(whole: bool) -> Policies:
    return policies(parts()[0], whole=whole)


def moved(own: Policies, by: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in own.model[own.learned].parameters():
        parameter.data += by * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5


@both
def test_all_begin_as_the_model(whole: bool) -> None:
    own, wanted = made(whole), velocity(parts()[0])
    for one in (own.learning, own.old, own.reference):
        torch.testing.assert_close(velocity(one), wanted)


@both
def test_only_the_learning_one_moves_until_the_old_one_follows(whole: bool) -> None:
    own, before = made(whole), velocity(parts()[0])
    moved(own)
    assert not torch.allclose(velocity(own.learning), before)
    torch.testing.assert_close(velocity(own.old), before)
    own.follow(0.0)
    torch.testing.assert_close(velocity(own.old), velocity(own.learning))
    torch.testing.assert_close(velocity(own.reference), before)
    assert [p.requires_grad for p in own.model[OLD].parameters()].count(True) == 0
    assert all(p.requires_grad for p in own.model[own.learned].parameters())


@both
def test_the_old_one_is_a_moving_mean(whole: bool) -> None:
    own = made(whole)
    before = [p.clone() for p in own.model[OLD].parameters()]
    moved(own)
    own.follow(0.8)
    for old, start, now in zip(
        own.model[OLD].parameters(), before, own.model[own.learned].parameters(), strict=True
    ):
        torch.testing.assert_close(old, (0.8 * start + 0.2 * now).detach())


@both
def test_averaged_weights_make_a_transformer(whole: bool) -> None:
    own = made(whole)
    average = Average(own.model)
    average.start()
    moved(own)
    average.update(0.0)
    torch.testing.assert_close(velocity(own.averaged(average.module())), velocity(own.learning))


@both
def test_drafts_are_of_the_old_policy_as_it_is_now_and_leave_it_alone(whole: bool) -> None:
    """A copy that was quantised once would draft for a policy that is long gone."""
    own = made(whole)
    moved(own)
    own.follow(0.0)
    now = velocity(own.old)
    drafting = own.drafting(PLANS["int8-weight"])
    assert any(isinstance(module, Quantized) for module in drafting.modules())
    assert not any(isinstance(module, Quantized) for module in own.old.modules())
    torch.testing.assert_close(velocity(drafting), now, rtol=0, atol=0.02 * now.abs().max().item())
    assert not torch.equal(velocity(drafting), now)
    assert (velocity(drafting) - now).norm() < 0.2 * (velocity(own.reference) - now).norm()
    torch.testing.assert_close(velocity(own.old), now, rtol=0, atol=0)
    assert own.drafting(None) is own.old


def test_policies_with_an_adapter_share_the_frozen_weights() -> None:
    own = made(False)
    kept = {p.data_ptr() for p in own.reference.parameters()}
    for other in (own.learning, own.old):
        extra = sum(p.numel() for p in other.parameters() if p.data_ptr() not in kept)
        assert extra == sum(p.numel() for p in own.model[OLD].parameters())


def test_beside_a_model_in_16_bits_what_learns_and_draws_is_float32() -> None:
    """Weights of bfloat16 stand still at small rates, and an old policy of bfloat16 never follows."""
    own = policies(parts()[0].to(torch.bfloat16))
    assert {p.dtype for p in own.model.parameters()} == {torch.float32}
    moved(own, 1e-4)
    before = [p.clone() for p in own.model[OLD].parameters()]
    own.follow(0.999)
    pairs = zip(before, own.model[OLD].parameters(), strict=True)
    assert all((old != new).float().mean() > 0.9 for old, new in pairs if old.abs().max() == 0)
