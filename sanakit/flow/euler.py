"""Flow-Euler: follow the velocity in straight steps. Exact where it is constant, else of first order.

Source: diffusers FlowMatchEulerDiscreteScheduler, equal step by step.
Shapes: any, with S steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from sanakit.flow.path import MODEL_TIME_SCALE, check_steps, checked_times, shift_times
from sanakit.flow.solver import State, checked_velocity, whole_time, widen


class Euler:
    """The Flow-Euler solver over one time grid.

    times: (S + 1,) from `euler_times`, strictly descending, ending at 0. whole: whether state.t is truncated
    to a whole model time, as NVIDIA's scripts do. Raises SettingsError for times that are not a grid.
    """

    def __init__(self, times: Tensor, *, whole: bool = False) -> None:
        self.times = checked_times(times)
        self.whole = whole

    def start(self, noise: Tensor, generator: Generator | None = None) -> State:
        """Return the first state, for a sample at times[0]; see `Solver`."""
        sample = widen(noise)
        return self._state(sample, 0, self.times[0].to(sample.dtype).item())

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further: sample + (next time - time) velocity; see `Solver`."""
        velocity = checked_velocity(state, velocity)
        sigma = self.times[state.index + 1].to(state.sample.dtype).item()
        sample = state.sample + (sigma - state.sigma) * velocity
        return self._state(sample, state.index + 1, sigma)

    def _state(self, sample: Tensor, index: int, sigma: float) -> State:
        t = whole_time(sigma) if self.whole else sigma
        return State(sample=sample, sigma=sigma, t=t, index=index, total=len(self.times) - 1)


def euler_times(steps: int, shift: float) -> Tensor:
    """Return the grid of Flow-Euler: from exactly 1 evenly down to the last training time, shifted; then 0.

    The published scheduler shifts its 1000 training times and then shifts the grid laid between their ends
    once more, so the last time before 0 has been shifted twice. We follow it.

    steps: 1 to 1000.   shift: > 0.
    Returns float64 (S + 1,). Raises SettingsError for settings out of range.
    Source: diffusers FlowMatchEulerDiscreteScheduler(shift=shift).set_timesteps(steps).

    >>> euler_times(2, 1.0)
    tensor([1.0000, 0.0010, 0.0000], dtype=torch.float64)
    """
    check_steps(steps)
    # float32, as the scheduler keeps its training times: else the last times differ in the seventh digit
    first_training_time = torch.tensor(1 / MODEL_TIME_SCALE, dtype=torch.float32)
    lowest = MODEL_TIME_SCALE * shift_times(first_training_time, shift).item()
    times = torch.from_numpy(np.linspace(MODEL_TIME_SCALE, lowest, steps)) / MODEL_TIME_SCALE  # S
    return torch.cat([shift_times(times, shift), times.new_zeros(1)])
