"""When to look: the time grids of the published solvers and the times that training draws.

A grid has S + 1 times for S steps: strictly descending, from 1 (pure noise) or just below to exactly 0.
It is held in float64; of Euler and DPM, rounded to float32, it equals diffusers' `scheduler.sigmas` exactly.
Source: shift: Esser et al. 2024 (arXiv:2403.03206) section 5.3.2; grids: diffusers
FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler and SCMScheduler with the settings that SANA
repositories ship; training times: SANA (arXiv:2410.10629).
Shapes: S steps, n samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import MODEL_TIME_SCALE, trig_to_flow_time

MAX_STEPS = 1000
SCM_SECOND_ANGLE = 1.3  # where the second of two steps begins, as published


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


def euler_times(steps: int, shift: float) -> Tensor:
    """Give the grid of Flow-Euler: from exactly 1 evenly down to the last training time, shifted; then 0.

    The published scheduler shifts its 1000 training times and then shifts the grid laid between their ends
    once more, so the last time before 0 has been shifted twice. We follow it.

    steps: 1 to 1000.   shift: > 0.
    Returns float64 (S + 1,). Raises SettingsError for settings out of range.
    Source: diffusers FlowMatchEulerDiscreteScheduler(shift=shift).set_timesteps(steps).

    >>> euler_times(2, 1.0)
    tensor([1.0000, 0.0010, 0.0000], dtype=torch.float64)
    """
    _check_steps(steps)
    # float32, as the scheduler keeps its training times: else the last times differ in the seventh digit
    first_training_time = torch.tensor(1 / MODEL_TIME_SCALE, dtype=torch.float32)
    lowest = MODEL_TIME_SCALE * shift_times(first_training_time, shift).item()
    times = torch.from_numpy(np.linspace(MODEL_TIME_SCALE, lowest, steps)) / MODEL_TIME_SCALE  # S
    return torch.cat([shift_times(times, shift), times.new_zeros(1)])


def dpm_times(steps: int, shift: float) -> Tensor:
    """Give the grid of Flow-DPM-Solver: from 0.999 evenly down to 0, shifted.

    These are the times of the solver's mathematics. The model is evaluated at other numbers: diffusers
    truncates the model time 1000 t to an integer, see `FlowDPM`.

    steps: 1 to 1000.   shift: > 0.
    Returns float64 (S + 1,). Raises SettingsError for settings out of range.
    Source: diffusers DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift, prediction_type=
    "flow_prediction", final_sigmas_type="zero"); "time_uniform_flow" of the published code.

    >>> dpm_times(2, 3.0)
    tensor([0.9997, 0.7496, 0.0000], dtype=torch.float64)
    """
    _check_steps(steps)
    alphas = torch.from_numpy(np.linspace(1, 1 / MODEL_TIME_SCALE, steps + 1))  # 1 - t, from clean to noise
    return shift_times(1 - alphas, shift).flip(0)


def scm_times(steps: int) -> Tensor:
    """Give the grid of SCM: TrigFlow's angle from pi/2 evenly down to 0, and for two steps pi/2, 1.3, 0.

    The published first angle, 1.57080, is pi/2 rounded up, which would be a time of 1.0000037: we take pi/2.

    steps: 1 to 1000; SANA-Sprint was made for 1 to 4. Raises SettingsError for others.
    Returns float64 (S + 1,).
    Source: diffusers SCMScheduler, with intermediate_timesteps=None for all steps but 2.

    >>> scm_times(2)
    tensor([1.0000, 0.7827, 0.0000], dtype=torch.float64)
    """
    _check_steps(steps)
    if steps == 2:
        angles = torch.tensor([math.pi / 2, SCM_SECOND_ANGLE, 0], dtype=torch.float64)
    else:
        angles = torch.linspace(math.pi / 2, 0, steps + 1, dtype=torch.float64)
    return trig_to_flow_time(angles)


def sample_training_times(
    n: int, shift: float, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """Draw the times at which a batch is noised for training: logit-normal, then shifted.

    t = shift(sigmoid(mean + std z)), z standard normal, continuous. The published training draws the same
    law in steps: i = floor(1000 sigmoid(z)), t = shift(i / 1000), and the model gets floor(1000 t).
    Continuous times are less than 3/1000 away (at shift 3) and cover what solvers ask for in between.

    n: >= 1.   shift: > 0.   generator: draws on its own device.
    mean, std: of the logit before the shift, std > 0.
    Returns float32 (n,) in [0, 1], on the generator's device. Raises SettingsError for settings out of range.
    Source: Esser et al. 2024 (arXiv:2403.03206) section 3.1; SANA uses mean 0, std 1, shift 3.
    """
    if n < 1:
        raise SettingsError(f"{n} training times were asked for; ask for 1 or more.")
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise SettingsError(
            f"Training times with mean {mean} and std {std} can not be drawn: "
            "take a finite mean and a std above 0."
        )
    logits = mean + std * torch.randn(n, generator=generator, device=generator.device)
    return shift_times(torch.sigmoid(logits), shift)


def checked_times(times: Tensor) -> Tensor:
    """Give the solver's own copy of a grid, float64 on the CPU, after making sure that it is a grid.

    times: (S + 1,), from `euler_times`, `dpm_times`, `scm_times` or a tail of them (image to image).
    Raises SettingsError where times do not descend strictly from at most 1 to exactly 0, in float32 as well,
    since two equal times make a step of length 0 that multistep solvers divide by.
    """
    if times.ndim != 1 or len(times) < 2:
        raise SettingsError(
            f"A time grid of shape {tuple(times.shape)} came; it is S + 1 times in one row, S >= 1."
        )
    grid = times.detach().to("cpu", torch.float64, copy=True)
    rounded = grid.float()
    if not (bool(torch.all(rounded[1:] < rounded[:-1])) and rounded[0] <= 1 and grid[-1] == 0):
        raise SettingsError(
            f"The times go from {grid[0].item():g} to {grid[-1].item():g} in {len(grid) - 1} steps, but they "
            "must descend strictly from at most 1 to 0: take fewer steps or a shift nearer to 1."
        )
    return grid


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise SettingsError(
            f"steps = {steps!r}, but it must be a whole number from 1 to {MAX_STEPS}; 20 is usual."
        )


def _check_shift(shift: float) -> None:
    if not (math.isfinite(shift) and shift > 0):
        raise SettingsError(f"shift = {shift}, but it must be a finite number above 0; SANA uses 3.0.")
