"""Flow-GRPO: policy gradients on the steps of stochastic rollouts.

Each step of `flow/sde.py` is normal: x' ~ N(mean(v), d^2). With the log-probability's mean over a sample's
values, the ratio of policy to old policy is clipped as in PPO:

    loss = -min(A ratio, A clip(ratio, 1 - reach, 1 + reach)) + kl mean (mean(v) - mean(v_ref))^2 / (2 d^2)

The old log-probability is that of the old policy at the same step, so the ratio is 1 where nothing was
learned yet. Rollouts hold noise of their own: drafts of fewer steps say nothing about them.
Source: Liu et al. 2025, Flow-GRPO (arXiv:2505.05470). Shapes: B samples, C h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.flow.sde import StochasticEuler, check_level, transition
from sanakit.train.config import check_above_zero, check_weight
from sanakit.train.reinforce.algorithm import Visit, away_from
from sanakit.train.reinforce.awm import gained


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowGRPO:
    """Settings; the defaults are the published ones.

    level: of the noise of rollouts, > 0. clip: of advantages, > 0. reach: of the ratio, > 0. kl: >= 0.
    Raises SettingsError.
    """

    level: float = 0.7
    clip: float = 5.0
    reach: float = 1e-4
    kl: float = 0.04

    def __post_init__(self) -> None:
        check_level(self.level)
        check_above_zero(clip=self.clip, reach=self.reach)
        check_weight("kl", self.kl)

    def solver(self, times: Tensor) -> StochasticEuler:
        """Return the solver with this noise."""
        return StochasticEuler(times, self.level)

    def errors(self, visit: Visit, velocity: Tensor, old: Tensor, reference: Tensor) -> Tensor:
        """Return the error of each sample, B; see `Algorithm`."""
        assert visit.after is not None, "of a rollout by its solver"
        assert visit.next_sample is not None
        point = (visit.t, visit.after, self.level)
        mean, deviation = transition(visit.sample, velocity, *point)
        before, _ = transition(visit.sample, old.detach(), *point)
        began, _ = transition(visit.sample, reference.detach(), *point)
        double = 2 * deviation.flatten().square()
        closer = away_from(visit.next_sample, before) - away_from(visit.next_sample, mean)
        ratio = torch.exp(closer / double)
        gain = gained(ratio, visit.advantage.clamp(-self.clip, self.clip), self.reach)
        return self.kl * away_from(mean, began) / double - gain
