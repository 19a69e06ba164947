"""Flow-Euler: follow the velocity in straight steps; and the state that all solvers share.

A solver is a pure state machine (DESIGN: solvers hold no model and no counters):

    state = solver.start(noise)
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
    latents = state.sample

States are immutable and a solver keeps nothing between calls, so states of different requests, at different
steps, can share one solver and be advanced in any order. Exact where the velocity is constant, else of first
order.
Source: diffusers FlowMatchEulerDiscreteScheduler, equal step by step.
Shapes: any, with S steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sanakit.flow.path import MODEL_TIME_SCALE, check_steps, checked_times, shift_times


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """The state of one sample between noise and image.

    sample: x_t, float32 (float64 where the start was).
    sigma: exact time of the sample in [0, 1]; the clean image in sight is sample - sigma * velocity.
    t: time to evaluate the velocity at, in [0, 1]; 1000 t is the model time that diffusers passes to its
    transformer.
    index, total: steps done and steps in all.
    """

    sample: Tensor
    sigma: float
    t: float
    index: int
    total: int

    @property
    def done(self) -> bool:
        """Whether the sample is finished; it cannot be advanced any more."""
        return self.index == self.total


class Euler:
    """The Flow-Euler solver over one time grid.

    times: (S + 1,) from `euler_times`, strictly descending, ending at 0. Raises SettingsError
    otherwise.
    """

    def __init__(self, times: Tensor) -> None:
        self.times = checked_times(times)

    def start(self, noise: Tensor) -> State:
        """Return the first state, for a sample at times[0].

        The sample is noise, or a noised image where the grid starts lower than pure noise.

        noise: any shape; half precision is widened to float32.
        """
        sample = widen(noise)
        sigma = self.times[0].to(sample.dtype).item()
        return State(sample=sample, sigma=sigma, t=sigma, index=0, total=len(self.times) - 1)

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further: sample + (next time - time) velocity.

        velocity: of state.sample at state.t, same shape, any floating dtype.
        Raises ValueError if the state is done or the shapes differ.
        """
        velocity = checked_velocity(state, velocity)
        sigma = self.times[state.index + 1].to(state.sample.dtype).item()
        sample = state.sample + (sigma - state.sigma) * velocity
        return State(sample=sample, sigma=sigma, t=sigma, index=state.index + 1, total=state.total)


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if its dtype is narrower: small steps are lost in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def checked_velocity(state: State, velocity: Tensor) -> Tensor:
    """Return the velocity in the state's dtype, after making sure that it belongs to an unfinished state."""
    if state.done:
        raise ValueError(f"All {state.total} steps are done: start again instead of advancing further.")
    if velocity.shape != state.sample.shape:
        raise ValueError(
            f"The velocity has shape {tuple(velocity.shape)}, the sample {tuple(state.sample.shape)}: "
            "they must be equal."
        )
    return velocity.to(state.sample.dtype)


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
