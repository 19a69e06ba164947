"""Advantage-weighted matching: loss and gradient in float64, its sign at the old policy, and its clip."""

from __future__ import annotations

import math

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.path import interpolate
from sanakit.train.reinforce.algorithm import Visit
from sanakit.train.reinforce.awm import AWM
from tests.train.reinforce.test_nft import draw


def test_loss_and_gradient_are_the_equations() -> None:
    visit, v, old, reference = draw()
    old, v = old / 50, (old / 50 + v / 200).requires_grad_(True)  # near each other, so that few are clipped
    errors = AWM(kl=0.3).errors(visit, v, old, reference)
    errors.sum().backward()
    for i in range(len(errors)):
        target = (visit.sample[i] - visit.clean[i]) / visit.t[i]
        one, n = v[i].detach(), v[i].numel()
        matched, before = ((x - target).square().mean().item() for x in (one, old[i]))
        ratio, a = math.exp(before - matched), min(max(visit.advantage[i].item(), -5), 5)
        clipped = min(max(ratio, 0.8), 1.2)
        active = a * ratio <= a * clipped
        loss = -min(a * ratio, a * clipped) + 0.3 * (one - reference[i]).square().mean().item()
        slope = a * ratio * 2 * (one - target) / n * active + 0.3 * 2 * (one - reference[i]) / n
        assert errors[i].item() == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(v.grad[i], slope, rtol=1e-6, atol=1e-12)


def test_at_the_old_policy_its_gradient_is_that_of_flow_matching_times_the_advantage() -> None:
    clean, noise, old = torch.randn(3, 3, 4, 2, 2, dtype=torch.float64)
    t, advantage = torch.tensor([0.2, 0.6, 1.0]), torch.tensor([1.5, 0.0, -2.0], dtype=torch.float64)
    t = t.double()
    v = old.clone().requires_grad_(True)
    AWM(kl=0.0).errors(Visit(interpolate(clean, noise, t), t, clean, advantage), v, old, old).sum().backward()
    other = old.clone().requires_grad_(True)
    (advantage * (other - (noise - clean)).square().flatten(1).mean(1)).sum().backward()
    torch.testing.assert_close(v.grad, other.grad, rtol=1e-6, atol=1e-15)


def test_a_bad_image_is_pushed_away_only_so_far() -> None:
    visit, _, old, _ = draw(1)
    far = (old + 5).requires_grad_(True)
    AWM(kl=0.0).errors(visit, far, old, old).sum().backward()
    assert far.grad.abs().max() == 0


@pytest.mark.parametrize("settings", [{"reach": 0}, {"clip": -1}, {"kl": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        AWM(**settings)


def test_it_takes_any_rollout() -> None:
    assert AWM().solver(torch.linspace(1, 0, 3)) is None
