"""The solver protocol: a pure state machine that follows the velocity from noise to image.

    state = solver.start(noise, generator)
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
    latents = state.sample

A solver holds no model and no counters. States are immutable and a solver keeps nothing between calls, so
states of different requests, at different steps, can share one solver and be advanced in any order.
Shapes: any, with S steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from sanakit.flow.path import MODEL_TIME_SCALE


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """Where one sample stands on its way from noise to image.

    sample: x_t, float32 (float64 where the start was).
    sigma: exact time of the sample in [0, 1]; the clean image in sight is sample - sigma * velocity.
    t: time to evaluate the velocity at, in [0, 1]; 1000 t is the model time that diffusers passes to its
    transformer.
    index, total: steps done and steps in all.
    history: clean images predicted at the steps before, newest first; of multistep solvers.
    random: state of a CPU generator that the next fresh noise comes from; of solvers that add noise.
    """

    sample: Tensor
    sigma: float
    t: float
    index: int
    total: int
    history: tuple[Tensor, ...] = ()
    random: Tensor | None = None

    @property
    def done(self) -> bool:
        """Whether the sample is finished; it cannot be advanced any more."""
        return self.index == self.total


class Solver(Protocol):
    """Advances samples over one time grid. times: (S + 1,), strictly descending, ending at 0."""

    times: Tensor

    def start(self, noise: Tensor, generator: Generator) -> State:
        """Return the first state, for a sample at times[0].

        noise: any shape, pure noise, or a noised image where the grid starts lower; half precision is widened
        to float32. generator: the one that drew the noise; solvers that add noise draw from it next; others
        ignore it. It is left as it is.
        """
        ...

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further.

        velocity: of state.sample at state.t, same shape, any floating dtype.
        Raises ValueError if the state is done or the shapes differ.
        """
        ...


def whole_time(sigma: float) -> float:
    """Return the time at or just below sigma whose model time is whole: floor(1000 sigma) / 1000.

    >>> whole_time(0.74962)
    0.749
    """
    return math.floor(MODEL_TIME_SCALE * sigma) / MODEL_TIME_SCALE


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
