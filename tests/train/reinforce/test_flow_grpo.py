"""Flow-GRPO: its ratio is that of two normal densities, in float64, and its sign at the old policy."""

from __future__ import annotations

import math

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.sde import StochasticEuler, transition
from sanakit.train.reinforce.algorithm import Visit
from sanakit.train.reinforce.flow_grpo import FlowGRPO

LEVEL = 0.7


def draw() -> tuple[Visit, list[torch.Tensor]]:
    """Steps of rollouts at four times, the first from pure noise, drawn by the old policy."""
    x, old, other, reference, noise = torch.randn(5, 4, 3, 2, 2, dtype=torch.float64)
    t, after = torch.tensor([[1.0, 0.9], [0.9, 0.8], [0.5, 0.4], [0.1, 0.0]], dtype=torch.float64).T
    mean, deviation = transition(x, old, t, after, LEVEL)
    advantage = torch.tensor([2.0, -2.0, 9.0, -0.1], dtype=torch.float64)
    visit = Visit(x, t, x, advantage, after, mean + deviation * noise)
    return visit, [old + other / 300, old, reference]


def test_loss_and_gradient_are_those_of_normal_densities() -> None:
    visit, (v, old, reference) = draw()
    v.requires_grad_(True)
    errors = FlowGRPO(reach=0.01, kl=0.2).errors(visit, v, old, reference)
    (slope,) = torch.autograd.grad(errors.sum(), v)

    again = v.detach().clone().requires_grad_(True)
    assert visit.after is not None
    assert visit.next_sample is not None
    losses = []
    for i in range(4):
        point = (visit.t[i], visit.after[i], LEVEL)
        mean, deviation = transition(visit.sample[i], again[i], *point)
        before, began = (transition(visit.sample[i], one[i], *point)[0] for one in (old, reference))
        now, then = (torch.distributions.Normal(one, deviation) for one in (mean, before))
        ratio = (now.log_prob(visit.next_sample[i]) - then.log_prob(visit.next_sample[i])).mean().exp()
        a = visit.advantage[i].clamp(-5, 5)
        gain = torch.minimum(a * ratio, a * ratio.clamp(0.99, 1.01))
        away = torch.distributions.kl_divergence(now, torch.distributions.Normal(began, deviation)).mean()
        losses.append(0.2 * away - gain)
    wanted = torch.stack(losses)
    wanted.sum().backward()
    torch.testing.assert_close(errors, wanted, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(slope, again.grad, rtol=1e-6, atol=1e-12)


def test_nothing_learned_yet_is_a_ratio_of_one_and_good_steps_become_likelier() -> None:
    visit, (_, old, _) = draw()
    v = old.clone().requires_grad_(True)
    errors = FlowGRPO(kl=0.0).errors(visit, v, old, old)
    torch.testing.assert_close(errors.detach(), -visit.advantage.clamp(-5, 5))
    errors.sum().backward()
    assert visit.after is not None
    assert visit.next_sample is not None
    point = (visit.t, visit.after, LEVEL)
    away = [
        (visit.next_sample - transition(visit.sample, one, *point)[0]).square().flatten(1).sum(1)
        for one in (old, old - 1e-6 * v.grad)
    ]
    assert (away[0] - away[1]).sign().tolist() == visit.advantage.sign().tolist()


def test_its_rollouts_are_stochastic() -> None:
    solver = FlowGRPO(level=0.3).solver(torch.linspace(1, 0, 5, dtype=torch.float64))
    assert isinstance(solver, StochasticEuler)
    assert solver.level == 0.3


@pytest.mark.parametrize("settings", [{"level": 0}, {"reach": 0}, {"clip": -1}, {"kl": math.inf}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        FlowGRPO(**settings)
