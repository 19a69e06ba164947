"""The interface of reinforcement algorithms: from what a rollout did at a point to an error there.

All see three velocities at a point: of the policy that learns, of the old one that drew, and of the reference
that it began as. Shapes: B samples, C h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sanakit.flow.solver import Solver


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """Points at which the policies are asked.

    sample: B C h w, x_t. t: B, in (0, 1]. clean: B C h w, where the rollout ended. advantage: B, of the
    rollout's image. after, next_sample: the next time of the rollout, B, and its sample there, of algorithms
    that learn from its steps.
    """

    sample: Tensor
    t: Tensor
    clean: Tensor
    advantage: Tensor
    after: Tensor | None = None
    next_sample: Tensor | None = None


class Algorithm(Protocol):
    """A rule to learn from rollouts by."""

    def solver(self, times: Tensor) -> Solver | None:
        """Return the solver that rollouts need over these times; None: any, and none that adds noise.

        With a solver, points are those of the rollout's own steps; without one, clean images noised again.
        """
        ...

    def errors(self, visit: Visit, velocity: Tensor, old: Tensor, reference: Tensor) -> Tensor:
        """Return the error of each sample, B float32, with the gradient of `velocity` alone.

        velocity, old, reference: B C h w, at the visit's points.
        """
        ...


def away_from(velocity: Tensor, reference: Tensor) -> Tensor:
    """Return the mean square distance of two velocities of each sample, B: KL divergence up to a factor."""
    return (velocity - reference).square().flatten(1).mean(1)
