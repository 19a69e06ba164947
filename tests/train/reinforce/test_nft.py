"""DiffusionNFT: loss and gradient against the equations in float64, its signs, and what it is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import interpolate
from sanakit.train.reinforce.algorithm import Visit
from sanakit.train.reinforce.nft import NFT

CLOSE = {"rtol": 1e-6, "atol": 0.0}


def draw(count: int = 6) -> tuple[Visit, Tensor, Tensor, Tensor]:
    """Points on the path, with velocities of three policies, float64."""
    clean, noise, v, old, reference = torch.randn(5, count, 4, 3, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 1, count, dtype=torch.float64)
    advantage = torch.tensor([-9.0, -2.5, -0.3, 0.3, 2.5, 9.0], dtype=torch.float64)[:count]
    return Visit(interpolate(clean, noise, t), t, clean, advantage), v, old, reference


def by_hand(visit: Visit, v: Tensor, old: Tensor, reference: Tensor, b: float, kl: float) -> list[Tensor]:
    """Sample by sample, value by value: the loss of each, and its derivative by v without autograd."""
    losses, slopes = [], []
    for x, t, clean, a, one, other, ref in zip(
        visit.sample, visit.t, visit.clean, visit.advantage, v, old, reference, strict=True
    ):
        r = min(max(min(max(a.item(), -5), 5) / 5 / 2 + 0.5, 0), 1)
        loss, slope, n = 0.0, torch.zeros_like(one), one.numel()
        for share, sign, mixed in (
            (r, b, b * one + (1 - b) * other),
            (1 - r, -b, (1 + b) * other - b * one),
        ):
            wrong = x - t * mixed - clean
            m = max(wrong.abs().mean().item(), 1e-5)
            loss += 5 * share * wrong.square().mean().item() / m / b
            slope += 5 * share / b * 2 * wrong * -t * sign / n / m
        losses.append(loss + kl * (one - ref).square().mean().item())
        slopes.append(slope + kl * 2 * (one - ref) / n)
    return [torch.tensor(losses, dtype=torch.float64), torch.stack(slopes)]


@pytest.mark.parametrize("b", [1.0, 0.4])
def test_loss_and_gradient_are_the_equations(b: float) -> None:
    visit, v, old, reference = draw()
    v.requires_grad_(True)
    errors = NFT(strength=b, kl=0.01).errors(visit, v, old, reference)
    errors.sum().backward()
    losses, slopes = by_hand(visit, v.detach(), old, reference, b, 0.01)
    torch.testing.assert_close(errors.detach(), losses, **CLOSE)
    torch.testing.assert_close(v.grad, slopes, **CLOSE)


@pytest.mark.parametrize("b", [1.0, 0.4])
def test_at_the_old_policy_the_gradient_vanishes_for_half_and_has_the_right_sign_else(b: float) -> None:
    visit, _, old, _ = draw()
    algorithm = NFT(strength=b, kl=0.0)
    for advantage, sign in ((0.0, 0), (1.0, 1), (9.0, 1), (-1.0, -1), (-9.0, -1)):
        v = old.clone().requires_grad_(True)
        one = Visit(visit.sample, visit.t, visit.clean, torch.full_like(visit.t, advantage))
        algorithm.errors(one, v, old, old).sum().backward()
        # the velocity towards the clean image: z - x0, as (x - x0) / t is
        towards = (visit.sample - visit.clean) / visit.t[:, None, None, None] - old
        along = -(v.grad * towards).flatten(1).sum(1)  # how a step against the gradient moves to it
        assert along.sign().tolist() == [sign] * len(along) or (sign == 0 and v.grad.abs().max() < 1e-15)


def test_the_negative_branch_is_there() -> None:
    """Weights r on the plain loss alone would be positive wherever: bad images would still pull."""
    visit, _, old, reference = draw()
    v = old.clone().requires_grad_(True)
    bad = Visit(visit.sample, visit.t, visit.clean, torch.full_like(visit.t, -5.0))
    NFT(kl=0.0).errors(bad, v, old, reference).sum().backward()
    towards = (visit.sample - visit.clean) / visit.t[:, None, None, None] - old
    assert bool(((v.grad * towards).flatten(1).sum(1) > 0).all())


def test_the_gradient_reaches_the_policy_alone() -> None:
    visit, v, old, reference = (one.requires_grad_() if isinstance(one, Tensor) else one for one in draw())
    NFT(strength=0.5).errors(visit, v, old, reference).sum().backward()
    assert v.grad is not None
    assert old.grad is None
    assert reference.grad is None


def test_all_times_have_gradients_of_one_size() -> None:
    """The error's own mean divides it: else steps near the image would count hardly at all."""
    clean, noise = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    v = torch.randn_like(clean)
    sizes = []
    for t in (0.1, 0.5, 1.0):
        own = v.clone().requires_grad_(True)
        time = torch.tensor([t], dtype=torch.float64)
        visit = Visit(interpolate(clean, noise, t), time, clean, torch.tensor([5.0]))
        NFT(kl=0.0).errors(visit, own, v, v).sum().backward()
        sizes.append(own.grad.norm().item() / t)
    assert max(sizes) / min(sizes) < 1.0001


def test_a_perfect_image_divides_by_the_floor_and_not_by_nothing() -> None:
    clean, noise = torch.randn(2, 2, 4, 2, 2)
    v = (noise - clean).requires_grad_(True)
    t = torch.tensor([0.5, 0.9])
    errors = NFT().errors(Visit(interpolate(clean, noise, t), t, clean, torch.zeros(2)), v, v, v)
    errors.sum().backward()
    assert bool(torch.isfinite(errors).all())
    assert bool(torch.isfinite(v.grad).all())


def test_what_is_not_a_number_stays_so_for_the_guard() -> None:
    """Published: such a loss times 0, which is no number either."""
    visit, v, old, reference = draw()
    v[0, 0, 0, 0] = math.nan
    errors = NFT().errors(visit, v, old, reference)
    assert torch.isnan(errors).tolist() == [True, *[False] * 5]


@pytest.mark.parametrize(
    "settings", [{"strength": 0}, {"clip": -1}, {"kl": -1}, {"kl": math.nan}, {"strength": math.inf}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        NFT(**settings)


def test_it_takes_any_rollout() -> None:
    assert NFT().solver(torch.linspace(1, 0, 3)) is None
