"""SCM: the sampler of consistency models, which SANA-Sprint draws with in one to four steps.

A consistency model is trained to point to the finished image from any time, not only to the next one. So each
step takes the clean image in sight, clean = x_t - t v, and noises it again to the next, lower time:

    x_next = (1 - t_next) clean + t_next * fresh noise

The published sampler writes the same in TrigFlow, x = cos(s) clean + sin(s) noise: it converts the flow
model's output to TrigFlow's prediction (`flow/trigflow.py`) and back in every step, and scales latents by a
sigma_data that cancels. Here no conversion is needed. Exact where the velocity points to one image. Fresh
noise continues the random numbers of the first noise, float32 on the CPU: a state carries where they stand,
so advancing one state twice gives the same sample twice.
Source: Lu and Song 2024, sCM (arXiv:2410.11081); SANA-Sprint (arXiv:2503.09641); diffusers SCMScheduler
within SanaSprintPipeline, equal step by step.
Shapes: any, with S steps.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sanakit.flow.path import check_steps, checked_times, clean_from_velocity, interpolate, trig_to_flow_time
from sanakit.flow.solver import State, checked_velocity, widen

SCM_SECOND_ANGLE = 1.3  # where the second of two steps begins, as published


class SCM:
    """The SCM sampler over one time grid.

    times: (S + 1,) from `scm_times`, strictly descending, ending at 0. Raises SettingsError
    otherwise.
    """

    def __init__(self, times: Tensor) -> None:
        self.times = checked_times(times)

    def start(self, noise: Tensor, generator: Generator) -> State:
        """Return the first state, for a sample at times[0]; see `Solver`.

        generator: on the CPU; fresh noise is what it would draw next, S - 1 times.
        """
        return self._state(widen(noise), index=0, random=generator.get_state())

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further: the clean image in sight, noised to the next time; see `Solver`.

        Raises ValueError for a state of another solver too.
        """
        if state.random is None:
            raise ValueError("The state has no random numbers: begin with the `start` of this solver.")
        velocity = checked_velocity(state, velocity)
        clean = clean_from_velocity(state.sample, velocity, state.sigma)
        index, random = state.index + 1, state.random
        if index == state.total:
            return self._state(clean, index, random)
        generator = Generator("cpu")
        generator.set_state(random)
        fresh = torch.randn(clean.shape, generator=generator, device="cpu", dtype=torch.float32).to(clean)
        time = self.times[index].to(clean.dtype).item()
        return self._state(interpolate(clean, fresh, time), index, generator.get_state())

    def _state(self, sample: Tensor, index: int, random: Tensor) -> State:
        time = self.times[index].to(sample.dtype).item()
        total = len(self.times) - 1
        return State(sample=sample, sigma=time, t=time, index=index, total=total, random=random)


def scm_times(steps: int) -> Tensor:
    """Return the grid of SCM: TrigFlow's angle from pi/2 evenly down to 0, and for two steps pi/2, 1.3, 0.

    The published first angle, 1.57080, is pi/2 rounded up, which would be a time of 1.0000037: we take pi/2.

    steps: 1 to 1000; SANA-Sprint was made for 1 to 4. Raises SettingsError for others.
    Returns float64 (S + 1,).
    Source: diffusers SCMScheduler, with intermediate_timesteps=None for all steps but 2.

    >>> scm_times(2)
    tensor([1.0000, 0.7827, 0.0000], dtype=torch.float64)
    """
    check_steps(steps)
    if steps == 2:
        angles = torch.tensor([math.pi / 2, SCM_SECOND_ANGLE, 0], dtype=torch.float64)
    else:
        angles = torch.linspace(math.pi / 2, 0, steps + 1, dtype=torch.float64)
    return trig_to_flow_time(angles)
