"""Advantage-weighted matching: flow matching on the images that were drawn, times how good they are.

With E(v) the mean square of v - (noise - x0), which stands for a negative log-likelihood, the ratio of policy
to old policy is exp(E(v_old) - E(v)), clipped as in PPO:

    loss = -min(A ratio, A clip(ratio, 1 - reach, 1 + reach)) + kl mean (v - v_ref)^2

At v = v_old its gradient is A times that of flow matching. An image with a negative advantage is pushed away
until the ratio falls below 1 - reach; without the clip that would have no end.
Source: Xue et al. 2025, Advantage Weighted Matching (arXiv:2509.25050). Shapes: B samples, C h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.flow.path import velocity_towards
from sanakit.train.config import check_above_zero, check_weight
from sanakit.train.reinforce.algorithm import Visit, away_from


@dataclass(frozen=True, kw_only=True, slots=True)
class AWM:
    """Settings: clip of advantages, > 0; reach of the ratio, > 0; kl, >= 0. Raises SettingsError."""

    clip: float = 5.0
    reach: float = 0.2
    kl: float = 1e-4

    def __post_init__(self) -> None:
        check_above_zero(clip=self.clip, reach=self.reach)
        check_weight("kl", self.kl)

    def solver(self, times: Tensor) -> None:
        """Return None: any rollout will do."""

    def errors(self, visit: Visit, velocity: Tensor, old: Tensor, reference: Tensor) -> Tensor:
        """Return the error of each sample, B; see `Algorithm`."""
        target = velocity_towards(visit.clean, visit.sample, visit.t)
        ratio = torch.exp(away_from(old.detach(), target) - away_from(velocity, target))
        gain = gained(ratio, visit.advantage.clamp(-self.clip, self.clip), self.reach)
        return self.kl * away_from(velocity, reference.detach()) - gain


def gained(ratio: Tensor, advantage: Tensor, reach: float) -> Tensor:
    """Return PPO's clipped gain of each sample, B. ratio: B, of policy to old policy. advantage: B."""
    return torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - reach, 1 + reach))
