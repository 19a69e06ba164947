"""Stochastic Euler: the flow's samples by a path with noise in it, each step of which has a probability.

The SDE with the marginals of the flow ODE: from t to a lower time t', with dt = t' - t < 0, n ~ N(0, 1),

    x' = x + (v + s^2 / (2 t) (x + (1 - t) v)) dt + s sqrt(-dt) n,     s = level sqrt(t / (1 - t))

At t = 1, where s would be infinite, 1 - t' stands for 1 - t, as in the published code. With a level of 0 it
is Euler. x' is normal given x, which is what policy gradients (Flow-GRPO) ask for.
Source: Liu et al. 2025, Flow-GRPO (arXiv:2505.05470), eq. 9.
Shapes: B samples, ... any further axes, S steps.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import checked_times
from sanakit.flow.solver import State, checked_velocity, widen

MOST_NOISE = 2.0  # standard deviations in one step, beside samples of about 1


class StochasticEuler:
    """Euler with noise over one time grid; noise continues the random numbers of each sample's own.

    times: (S + 1,), strictly descending, ending at 0. level: > 0, of the noise; published: 0.7. Raises
    SettingsError, also for a grid that begins just below 1: its first step would leave nothing but noise.
    """

    def __init__(self, times: Tensor, level: float = 0.7) -> None:
        self.times, self.level = checked_times(times), check_level(level)
        ones = torch.ones(len(times) - 1, dtype=torch.float64)
        _, deviations = transition(ones, ones, self.times[:-1], self.times[1:], self.level)
        if (most := deviations.max().item()) > MOST_NOISE:
            place = int(deviations.argmax())
            raise SettingsError(
                f"The step from the time {self.times[place].item():g} adds noise of {most:.2g} standard "
                f"deviations; more than {MOST_NOISE:g} leave nothing of the sample. Begin at exactly 1, with "
                "more steps or a lower level."
            )

    def start(self, noise: Tensor, generator: Generator) -> State:
        """Return the first state, for a sample at times[0]; see `Solver`. generator: on the CPU."""
        return self._state(widen(noise), 0, generator.get_state())

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further; see `Solver`.

        Raises ValueError for a state of another solver too.
        """
        if state.random is None:
            raise ValueError("The state has no random numbers: begin with the `start` of this solver.")
        velocity = checked_velocity(state, velocity)
        t, after = (self.times[state.index + ahead].to(state.sample) for ahead in (0, 1))
        mean, deviation = transition(state.sample, velocity, t, after, self.level)
        generator = Generator("cpu")
        generator.set_state(state.random)
        fresh = torch.randn(mean.shape, generator=generator, device="cpu", dtype=torch.float32).to(mean)
        return self._state(mean + deviation * fresh, state.index + 1, generator.get_state())

    def _state(self, sample: Tensor, index: int, random: Tensor) -> State:
        time = self.times[index].to(sample.dtype).item()
        total = len(self.times) - 1
        return State(sample=sample, sigma=time, t=time, index=index, total=total, random=random)


def transition(
    sample: Tensor, velocity: Tensor, t: Tensor, after: Tensor, level: float
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the next sample: (B, ...), and one number for each sample.

    sample, velocity: (B, ...). t, after: times of the sample and of the next one, () or (B,), t > after >= 0.
    """
    shape = (-1, *[1] * (sample.ndim - 1)) if t.ndim else ()
    t, after = t.reshape(shape), after.reshape(shape)
    spread = level * torch.sqrt(t / (1 - torch.where(t == 1, after, t)))
    towards_noise = sample + (1 - t) * velocity
    mean = sample + (velocity + spread.square() / (2 * t) * towards_noise) * (after - t)
    return mean, spread * torch.sqrt(t - after)


def check_level(level: float) -> float:
    """Return a level of noise. Raises SettingsError unless it is a number above 0."""
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < math.inf:
        raise SettingsError(
            f"The level of noise is {level!r}, but it must be a number above 0; 0.7 is usual."
        )
    return float(level)
