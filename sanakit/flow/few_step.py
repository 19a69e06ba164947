"""The sampler of models distilled by self-forcing, such as LongSANA: a few fixed times, fresh noise between.

    clean = x - sigma v        x_next = (1 - sigma_next) clean + sigma_next * fresh noise

It is SCM's rule (`scm.py`), but the model is asked at other times than its samples are noised to. The model
sees the few times that it was trained at. The sigma of each is the nearest of the 1000 noise levels of its
training, which a shift has moved. The last clean latents are the result.
As published, the clean latents are computed in float64 and rounded, and the rest is float32.
Source: Self Forcing (arXiv:2506.08009); LongSANA (arXiv:2509.24695) and its released sampler, equal bit for
bit in float32.
Shapes: any, with S steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import (
    MODEL_TIME_SCALE,
    checked_times,
    clean_from_velocity,
    interpolate,
    shift_times,
)
from sanakit.flow.solver import State, checked_velocity, widen

LONG_SANA_TIMES = (1.0, 0.96, 0.889, 0.727)
LONG_SANA_SHIFT = 7.0
LONG_SANA_CHUNK = 10  # latent frames of a chunk, as LongSANA was trained


class FewStep:
    """The sampler over the few times that a distilled model knows.

    times: S of them in [0, 1], descending, that the model is asked at. shift: above 0, of its 1000 training
    noise levels. The defaults are LongSANA's. Raises SettingsError for others, and for times so close that
    they have one noise level.
    """

    def __init__(self, times: Sequence[float] = LONG_SANA_TIMES, shift: float = LONG_SANA_SHIFT) -> None:
        if not times or not all(0 < time <= 1 for time in times):
            raise SettingsError(
                f"The few times are {list(times)}: pass one or more, each above 0 and up to 1."
            )
        self.model_times = (*times, 0.0)
        even = torch.linspace(1, 0, MODEL_TIME_SCALE + 1, dtype=torch.float32, device="cpu")
        levels = shift_times(even[:-1], shift)
        nearest = [levels[(levels - time).abs().argmin()] for time in times]
        self.times = checked_times(torch.stack([*nearest, levels.new_zeros(())]))

    def start(self, noise: Tensor, generator: Generator) -> State:
        """Return the first state, for a sample at times[0]; see `Solver`.

        generator: on the CPU; fresh noise is what it would draw next, S - 1 times.
        """
        return self._state(widen(noise), index=0, random=generator.get_state())

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further: the clean latents in sight, noised again; see `Solver`.

        Raises ValueError for a state of another solver too.
        """
        if state.random is None:
            raise ValueError("The state has no random numbers: begin with the `start` of this solver.")
        velocity = checked_velocity(state, velocity)
        clean = clean_from_velocity(state.sample.double(), velocity.double(), state.sigma)
        clean, index = clean.to(state.sample.dtype), state.index + 1
        if index == state.total:
            return self._state(clean, index, state.random)
        generator = Generator("cpu")
        generator.set_state(state.random)
        fresh = torch.randn(clean.shape, generator=generator, device="cpu", dtype=torch.float32).to(clean)
        return self._state(interpolate(clean, fresh, self.times[index].item()), index, generator.get_state())

    def _state(self, sample: Tensor, index: int, random: Tensor) -> State:
        return State(
            sample=sample,
            sigma=self.times[index].item(),
            t=self.model_times[index],
            index=index,
            total=len(self.times) - 1,
            random=random,
        )
