"""The straight path between image and noise: the one convention of this package (rectified flow).

    x_t = (1 - t) x0 + t noise        v = dx_t/dt = noise - x0        t in [0, 1], 1 = pure noise

x0 is the clean latent. Knowing x_t, v and t gives both ends back: x0 = x_t - t v, noise = x_t + (1 - t) v.
Other conventions are conversions written here and nowhere else:
    diffusers sigma      = t, number for number
    model time           = 1000 t, what the timestep embedding sees (diffusers calls it timestep)
    half log-SNR lambda  = log((1 - t) / t), the variable in which DPM-Solver++ integrates
    TrigFlow (Sprint)    : x = sigma_data (cos(s) x0 + sin(s) noise) at an angle s in [0, pi/2]; x_t is that x
                           times sqrt(t^2 + (1 - t)^2) / sigma_data, with t = sin(s) / (sin(s) + cos(s))
A solver's grid has S + 1 times for S steps: strictly descending, from 1 (pure noise) or just below to exactly
0, held in float64. Each solver's file gives its own.
Source: Liu et al. 2022 (arXiv:2209.03003); Esser et al. 2024 (arXiv:2403.03206); SANA (arXiv:2410.10629).
Shapes: B batch, ... any further axes. A time is one float, or a tensor (B,): one per sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sanakit.errors import SettingsError, of_setting

MAX_STEPS = 1000
MODEL_TIME_SCALE = 1000  # model time of pure noise; also the number of published training time steps


def interpolate(clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """Return x_t, the point of the path at time t: (1 - t) clean + t noise.

    clean, noise: (B, ...), equal shapes.   t: in [0, 1], float or (B,).
    Returns (B, ...).

    >>> interpolate(torch.zeros(1, 2), torch.ones(1, 2), 0.25)
    tensor([[0.2500, 0.2500]])
    """
    t = _per_sample(t, clean)
    return (1 - t) * clean + t * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity v = noise - clean that the model learns; the same at every time of the path.

    clean, noise: (B, ...), equal shapes. Returns (B, ...).
    """
    return noise - clean


def clean_from_velocity(sample: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """Return the clean latent x0 = sample - t velocity that a velocity at time t points to.

    sample, velocity: (B, ...).   t: in [0, 1], float or (B,). Returns (B, ...).
    """
    return sample - _per_sample(t, sample) * velocity


def velocity_towards(clean: Tensor, sample: Tensor, t: Tensor | float) -> Tensor:
    """Return the velocity (sample - clean) / t from a sample at time t > 0 to a given clean latent.

    Every solver here follows it to that latent exactly: the inverse of `clean_from_velocity`.
    clean, sample: (B, ...).   t: in (0, 1], float or (B,). Returns (B, ...).
    """
    return (sample - clean) / _per_sample(t, sample)


def noise_from_velocity(sample: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """Return the noise = sample + (1 - t) velocity that a velocity at time t comes from.

    sample, velocity: (B, ...).   t: in [0, 1], float or (B,). Returns (B, ...).
    """
    return sample + (1 - _per_sample(t, sample)) * velocity


def to_model_time(t: Tensor | float) -> Tensor | float:
    """Return the model time 1000 t (diffusers timestep) of a time t in [0, 1]."""
    return MODEL_TIME_SCALE * t


def from_model_time(model_time: Tensor | float) -> Tensor | float:
    """Return the time t in [0, 1] of a model time (diffusers timestep) in [0, 1000]."""
    return model_time / MODEL_TIME_SCALE


def trig_to_flow_time(angle: Tensor) -> Tensor:
    """Return the time t = sin(s) / (sin(s) + cos(s)) of TrigFlow's angle s: as much noise for as much image.

    angle: any shape, in [0, pi/2], pi/2 = pure noise. Returns the same shape and dtype.
    Source: SANA-Sprint (arXiv:2503.09641).

    >>> trig_to_flow_time(torch.tensor([math.pi / 2, math.pi / 4, 0.0], dtype=torch.float64))
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    return torch.sin(angle) / (torch.sin(angle) + torch.cos(angle))


def half_log_snr(t: float) -> float:
    """Return lambda = log((1 - t) / t): falls with noise, -inf at t = 1, +inf at t = 0.

    t: in [0, 1].
    """
    if t >= 1:
        return -math.inf
    if t <= 0:
        return math.inf
    return math.log1p(-t) - math.log(t)


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Move times towards noise, as large images need: s t / (1 + (s - 1) t).

    Large images drown their details at a higher noise level, so more steps belong there. In half log-SNR the
    shift is a plain subtraction of log(shift); hence shifting by a and then b is shifting by a b.

    times: any shape, in [0, 1], 1 = pure noise.   shift: > 0, 1 = unchanged; SANA uses 3 (6 at 4096 px).
    Returns the same shape and dtype; 0 and 1 stay. Raises SettingsError for a shift out of range.
    Source: Esser et al. 2024 (arXiv:2403.03206), eq. 23.

    >>> shift_times(torch.tensor([1.0, 0.5, 0.0]), 3.0)
    tensor([1.0000, 0.7500, 0.0000])
    """
    _check_shift(shift)
    return shift * times / (1 + (shift - 1) * times)


def checked_times(times: Tensor) -> Tensor:
    """Return the solver's own copy of a grid, float64 on the CPU, after making sure that it is a grid.

    times: (S + 1,), from `euler_times`, `dpm_times`, `scm_times` or a tail of them (image to image).
    Raises SettingsError where times do not descend strictly from at most 1 to exactly 0, in float32 as well,
    since two equal times make a step of length 0 that multistep solvers divide by.
    """
    if times.ndim != 1 or len(times) < 2:
        raise SettingsError(
            f"A time grid has shape {tuple(times.shape)}; it must be one row of at least 2 times."
        )
    grid = times.detach().to("cpu", torch.float64, copy=True)
    rounded = grid.float()
    if not (bool(torch.all(rounded[1:] < rounded[:-1])) and rounded[0] <= 1 and grid[-1] == 0):
        raise SettingsError(
            f"The times go from {grid[0].item():g} to {grid[-1].item():g} in {len(grid) - 1} steps, but they "
            "must descend strictly from at most 1 to 0: use fewer steps or a shift nearer to 1."
        )
    return grid


@of_setting("steps")
def check_steps(steps: int) -> None:
    """Raise SettingsError for a number of steps that no grid has."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise SettingsError(
            f"steps = {steps!r}, but it must be a whole number from 1 to {MAX_STEPS}; 20 is usual."
        )


def _per_sample(t: Tensor | float, like: Tensor) -> Tensor | float:
    """Append axes of length 1 to times of shape (B,) so that they broadcast over (B, ...)."""
    if isinstance(t, torch.Tensor) and t.ndim == 1:
        return t.reshape(-1, *[1] * (like.ndim - 1))  # B 1 ... 1
    return t


def _check_shift(shift: float) -> None:
    if not (math.isfinite(shift) and shift > 0):
        raise SettingsError(f"shift = {shift}, but it must be a finite number above 0; SANA uses 3.0.")
