"""Flow-DPM-Solver: DPM-Solver++ multistep on the flow path, the solver that draws the published images.

With alpha = 1 - t, sigma = t and the half log-SNR lambda = log(alpha / sigma), the flow ODE from s to t has
the exact solution

    x_t = (sigma_t / sigma_s) x_s + sigma_t * integral of exp(lambda) x0(lambda) dlambda, lambda_s to lambda_t

Only x0, the clean image that the velocity points to, is unknown between steps. It is taken as constant (order
1: the same as Euler), a line (order 2) or a parabola (order 3) through the last predictions; the weight
exp(lambda) is integrated exactly. So each order is exact where x0 stays constant, and one velocity is needed
per step in any order. Two choices follow the published solver, so that images are equal. Order 2 is the
"midpoint" rule, which weighs the slope by (1 - exp(-h)) / 2 instead of its exact integral. Order 3 uses half
of the parabola's curvature term (exact would be twice `curvature` below). Its error therefore falls with the
square of the step as in order 2, but is smaller. The full term is of third order on grids even in lambda, but
gained nothing on Gaussian data with the published grid, whose last steps stay long.
Source: Lu et al. 2022, DPM-Solver++ (arXiv:2211.01095); diffusers DPMSolverMultistepScheduler (dpmsolver++,
midpoint, flow_prediction, lower_order_final), equal step by step.
Shapes: any, with S steps.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import (
    MODEL_TIME_SCALE,
    check_steps,
    checked_times,
    clean_from_velocity,
    half_log_snr,
    shift_times,
)
from sanakit.flow.solver import State, checked_velocity, whole_time, widen

ORDERS = (1, 2, 3)
FEW_STEPS = 15  # below this, the last step but one is at most of order 2: long steps make order 3 overshoot


class FlowDPM:
    """The Flow-DPM-Solver over one time grid.

    The solver computes with the exact times, but state.t is truncated so that the model time 1000 t is an
    integer: the published pipeline hands its transformer integers (999, 982, 963, ... for 20 steps, shift 3).
    1000 t is that integer in float64; in float32, ten of the thousand end one unit in the last place away.

    times: (S + 1,) from `dpm_times`, strictly descending, ending at 0. whole: whether to truncate.
    order: 1, 2 (published) or 3. Raises SettingsError for any other, or for times that are not a grid.
    """

    def __init__(self, times: Tensor, order: int = 2, *, whole: bool = True) -> None:
        if order not in ORDERS:
            raise SettingsError(f"Flow-DPM-Solver of order {order} does not exist: use 1, 2 (usual) or 3.")
        self.times = checked_times(times)
        self.order, self.whole = order, whole

    def start(self, noise: Tensor, generator: Generator | None = None) -> State:
        """Return the first state, for a sample at times[0]; see `Solver`."""
        return self._state(widen(noise), index=0, history=())

    def advance(self, state: State, velocity: Tensor) -> State:
        """Return the state one step further; see `Solver`."""
        velocity = checked_velocity(state, velocity)
        clean = clean_from_velocity(state.sample, velocity, state.sigma)
        predictions = (clean, *state.history)  # newest first
        if state.index + 1 == state.total:
            sample = clean  # at sigma = 0 the first-order formula is exactly this
        else:
            order = self._order_of_step(state)
            # diffusers keeps its sigmas in float32; 1 - t near pure noise notices, so we round alike
            next_first = self.times[: state.index + 2].flip(0)[: order + 1].to(state.sample.dtype).tolist()
            sample = _step(state.sample, predictions[:order], next_first)
        return self._state(sample, state.index + 1, history=predictions[: self.order - 1])

    def _order_of_step(self, state: State) -> int:
        order = min(self.order, len(state.history) + 1)
        last_but_one = state.index == state.total - 2
        return min(order, 2) if last_but_one and state.total < FEW_STEPS else order

    def _state(self, sample: Tensor, index: int, history: tuple[Tensor, ...]) -> State:
        time = self.times[index]
        return State(
            sample=sample,
            sigma=(sigma := time.to(sample.dtype).item()),
            t=whole_time(time.item()) if self.whole else sigma,
            index=index,
            total=len(self.times) - 1,
            history=history,
        )


def _step(sample: Tensor, predictions: tuple[Tensor, ...], times: list[float]) -> Tensor:
    """Return one multistep update of order len(predictions), from times[1] to times[0].

    predictions: clean images at times[1], times[2], ...   times: ascending, 0 < times[0].
    """
    lambdas = [half_log_snr(time) for time in times]
    alpha = 1 - times[0]
    h = lambdas[0] - lambdas[1]  # infinite if the step starts at pure noise
    decay = math.expm1(-h)
    result = (times[0] / times[1]) * sample - (alpha * decay) * predictions[0]
    if len(predictions) == 1:
        return result
    # r0, r1: lengths of the earlier steps in units of this one; infinite, and the slope 0, from pure noise
    r0 = (lambdas[1] - lambdas[2]) / h
    slope0 = (predictions[0] - predictions[1]) / r0
    if len(predictions) == 2:
        return result - (0.5 * alpha * decay) * slope0
    r1 = (lambdas[2] - lambdas[3]) / h
    slope1 = (predictions[1] - predictions[2]) / r1
    curvature = (slope0 - slope1) / (r0 + r1)
    slope = slope0 + r0 * curvature  # of the parabola, at the newest prediction
    return result + (alpha * (decay / h + 1)) * slope - (alpha * ((decay + h) / h**2 - 0.5)) * curvature


def dpm_times(steps: int, shift: float) -> Tensor:
    """Return the grid of Flow-DPM-Solver: from 0.999 evenly down to 0, shifted.

    These are the times of the solver's mathematics. The model is evaluated at other numbers: diffusers
    truncates the model time 1000 t to an integer, see `FlowDPM`.

    steps: 1 to 1000.   shift: > 0.
    Returns float64 (S + 1,). Raises SettingsError for settings out of range.
    Source: diffusers DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift, prediction_type=
    "flow_prediction", final_sigmas_type="zero"); "time_uniform_flow" of the published code.

    >>> dpm_times(2, 3.0)
    tensor([0.9997, 0.7496, 0.0000], dtype=torch.float64)
    """
    check_steps(steps)
    alphas = torch.from_numpy(np.linspace(1, 1 / MODEL_TIME_SCALE, steps + 1))  # 1 - t, from clean to noise
    return shift_times(1 - alphas, shift).flip(0)
