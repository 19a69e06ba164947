"""DiffusionNFT: good images pull the velocity towards them, bad ones push a mirrored velocity towards them.

With r in [0, 1] the chance that an image is good, and e its error as a clean image in sight, x - t v - x0,

    v+ = b v + (1 - b) v_old        v- = (1 + b) v_old - b v
    L(v) = mean e(v)^2 / m(v),      m = mean |e(v)| of the sample, without gradient, at least 1e-5
    loss = c (r L(v+) + (1 - r) L(v-)) / b + kl mean (v - v_ref)^2,     r = clip(A / c, -1, 1) / 2 + 1/2

At v = v_old the gradient vanishes for r = 1/2, follows x0 for larger and flees it for smaller r. Without the
negative branch, which the second term is, quality falls. m makes all times equally important.
Source: Zheng et al. 2025, DiffusionNFT (arXiv:2509.16117), as trained in Sol-RL (NVlabs/Sana).
Shapes: B samples, C h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sanakit.flow.path import clean_from_velocity
from sanakit.train.config import check_above_zero, check_weight
from sanakit.train.reinforce.algorithm import Visit, away_from

LEAST = 1e-5  # of m


@dataclass(frozen=True, kw_only=True, slots=True)
class NFT:
    """DiffusionNFT's settings; the defaults are Sol-RL's.

    strength: b, > 0. clip: c, the advantage from which on an image is wholly good or bad, > 0. kl: weight of
    the distance from the reference, >= 0. Raises SettingsError.
    """

    strength: float = 1.0
    clip: float = 5.0
    kl: float = 1e-4

    def __post_init__(self) -> None:
        check_above_zero(strength=self.strength, clip=self.clip)
        check_weight("kl", self.kl)

    def solver(self, times: Tensor) -> None:
        """Return None: any rollout will do."""

    def errors(self, visit: Visit, velocity: Tensor, old: Tensor, reference: Tensor) -> Tensor:
        """Return the error of each sample, B; see `Algorithm`."""
        b, old = self.strength, old.detach()
        good = (visit.advantage / self.clip).clamp(-1, 1) / 2 + 0.5
        towards = self._error(visit, b * velocity + (1 - b) * old)
        mirrored = self._error(visit, (1 + b) * old - b * velocity)
        learned = self.clip * (good * towards + (1 - good) * mirrored) / b
        return learned + self.kl * away_from(velocity, reference.detach())

    @staticmethod
    def _error(visit: Visit, velocity: Tensor) -> Tensor:
        wrong = (clean_from_velocity(visit.sample, velocity, visit.t) - visit.clean).flatten(1)
        size = wrong.detach().abs().mean(1).clamp(min=LEAST)
        return wrong.square().mean(1) / size
