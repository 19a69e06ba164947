from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.path import half_log_snr
from sanakit.flow.solver import State

ORDERS = [1, 2, 3]
PUBLISHED_20 = "999 982 963 944 922 899 874 847 817 785 749 710 666 617 562 499 428 345 249 136"


def times_even_in_lambda(steps: int, highest: float = 0.95, lowest: float = 0.05) -> torch.Tensor:
    """A grid with `steps` equal steps in lambda, and a last one to 0."""
    lambdas = torch.linspace(half_log_snr(highest), half_log_snr(lowest), steps + 1, dtype=torch.float64)
    return torch.cat([torch.sigmoid(-lambdas), lambdas.new_zeros(1)])


def with_history(solver: FlowDPM, index: int, sample: torch.Tensor, history: list[torch.Tensor]) -> State:
    """A state in the middle of the way whose past is given instead of solved."""
    time = solver.times[index].item()
    total = len(solver.times) - 1
    return State(sample=sample, sigma=time, t=time, index=index, total=total, history=tuple(history))


def diffusers_scheduler(order: int, shift: float, steps: int):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=order,
        solver_type="midpoint",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 14, 15, 20, 28])
def test_every_step_equals_diffusers(steps, shift, order):
    scheduler = diffusers_scheduler(order, shift, steps)
    # The same float32 sigmas, but held in float64: diffusers then computes its coefficients without the
    # cancellation that costs it up to 1e-6 (exp(-h) - 1 + h at small h). The samples stay in float32 on both
    # sides.
    scheduler.sigmas = scheduler.sigmas.double()
    rounding = diffusers_scheduler(order, shift, steps)
    generator = torch.Generator().manual_seed(steps)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    solver = FlowDPM(dpm_times(steps, shift), order)
    state, sharp, plain = solver.start(noise), noise, noise
    for model_time in scheduler.timesteps:
        velocity = torch.randn(1, 4, 8, 8, generator=generator)
        sharp = scheduler.step(velocity, model_time, sharp, return_dict=False)[0]
        plain = rounding.step(velocity, model_time, plain, return_dict=False)[0]
        state = solver.advance(state, velocity)
        assert (state.sample - sharp).norm() <= 3e-7 * sharp.norm()
        assert (state.sample - plain).norm() <= 2e-6 * plain.norm()
    assert state.done
    assert (state.index, state.total, state.t, state.sigma) == (steps, steps, 0.0, 0.0)


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_model_times_are_the_integers_that_diffusers_passes(shift):
    for steps in [*range(1, 31), 50, 100, 1000]:
        solver = FlowDPM(dpm_times(steps, shift))
        state, zeros = solver.start(torch.zeros(1)), torch.zeros(1)
        model_times = []
        while not state.done:
            model_times.append(1000 * state.t)
            state = solver.advance(state, zeros)
        assert model_times == diffusers_scheduler(2, shift, steps).timesteps.tolist(), steps


def test_twenty_steps_at_shift_three_are_the_published_model_times():
    solver = FlowDPM(dpm_times(20, 3.0))
    state = solver.start(torch.zeros(1))
    published = []
    while not state.done:
        published.append(1000 * state.t)
        state = solver.advance(state, torch.zeros(1))
    assert published == [float(word) for word in PUBLISHED_20.split()]


@pytest.mark.parametrize("shift", [3.0, 4.0, 6.0])
def test_whole_times_are_those_that_nvidias_scripts_compute_in_float32(shift):
    for steps in range(1, 101):
        even = 1 - torch.linspace(1.0, 0.001, steps + 1)
        scripts = (1000 * (shift * even / (1 + (shift - 1) * even)).flip(0)).long()
        ours = [math.floor(1000 * t) for t in dpm_times(steps, shift).tolist()]
        assert ours == scripts.tolist()


@pytest.mark.parametrize("shift", [3.0, 4.0])
def test_times_that_are_not_whole_are_those_of_the_solver(shift):
    solver = FlowDPM(dpm_times(20, shift), whole=False)
    state = solver.start(torch.zeros(1))
    while not state.done:
        assert state.t == state.sigma == solver.times[state.index].float().item()
        state = solver.advance(state, torch.zeros(1))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_constant_clean_image_is_reached_exactly_and_passed_on_the_straight_line(steps, order):
    clean, noise = (
        torch.tensor([2.0, -1.0], dtype=torch.float64),
        torch.tensor([0.5, 3.0], dtype=torch.float64),
    )
    first = dpm_times(steps, 3.0)[0].item()
    solver = FlowDPM(dpm_times(steps, 3.0), order)
    state = solver.start((1 - first) * clean + first * noise)
    while not state.done:
        state = solver.advance(state, (state.sample - clean) / state.sigma)
        on_the_line = (1 - state.sigma) * clean + state.sigma * noise
        torch.testing.assert_close(state.sample, on_the_line, rtol=0, atol=1e-13)


def test_order_one_is_euler(gaussian, z):
    times = dpm_times(12, 3.0)
    dpm, euler = FlowDPM(times, 1), Euler(times)
    ours, theirs = dpm.start(z), euler.start(z)
    while not ours.done:
        velocity = gaussian.velocity(ours.sample, ours.sigma)
        ours, theirs = dpm.advance(ours, velocity), euler.advance(theirs, velocity)
        torch.testing.assert_close(ours.sample, theirs.sample, rtol=1e-12, atol=1e-13)


def step_with_clean_image_of_lambda(
    order: int, clean, index: int = 2
) -> tuple[torch.Tensor, float, float, float]:
    """One step of the solver where x0 is a function of lambda alone; also the times of the step and its h."""
    times = torch.cat(
        [torch.tensor([0.93, 0.88, 0.8, 0.62], dtype=torch.float64), torch.linspace(0.5, 0, 20)]
    )
    solver = FlowDPM(times, order)
    now, after = solver.times[index].item(), solver.times[index + 1].item()
    history = [clean(half_log_snr(solver.times[index - k].item())) for k in range(1, order)]
    sample = torch.tensor([1.7], dtype=torch.float64)
    velocity = (sample - clean(half_log_snr(now))) / now
    result = solver.advance(with_history(solver, index, sample, history), velocity).sample
    return result - (after / now) * sample, now, after, half_log_snr(after) - half_log_snr(now)


def integral_of_power(power: int, now: float, after: float) -> float:
    """sigma_t times the integral of exp(lambda) (lambda - lambda_s)^power from s to t, by parts."""
    h = half_log_snr(after) - half_log_snr(now)
    value = (1 - after) * -math.expm1(-h)
    for k in range(1, power + 1):
        value = (1 - after) * h**k - k * value
    return value


def test_order_three_is_exact_where_the_clean_image_is_a_line_in_lambda():
    def line(lam):
        return torch.tensor([0.4 + 1.3 * lam], dtype=torch.float64)

    moved, now, after, _ = step_with_clean_image_of_lambda(3, line)
    lam = half_log_snr(now)
    exact = (0.4 + 1.3 * lam) * integral_of_power(0, now, after) + 1.3 * integral_of_power(1, now, after)
    assert moved.item() == pytest.approx(exact, rel=1e-12)


def test_order_three_takes_half_of_the_curvature_of_a_parabola():
    def parabola(lam):
        return torch.tensor([0.7 * lam**2], dtype=torch.float64)

    moved, now, after, _ = step_with_clean_image_of_lambda(3, parabola)
    lam = half_log_snr(now)
    constant, linear, square = (integral_of_power(power, now, after) for power in (0, 1, 2))
    assert moved.item() == pytest.approx(0.7 * (lam**2 * constant + 2 * lam * linear + square / 2), rel=1e-12)


def test_order_two_weighs_a_line_by_the_midpoint_rule():
    def line(lam):
        return torch.tensor([0.4 + 1.3 * lam], dtype=torch.float64)

    moved, now, after, h = step_with_clean_image_of_lambda(2, line)
    lam = half_log_snr(now)
    middle = 0.4 + 1.3 * (lam + h / 2)
    assert moved.item() == pytest.approx(middle * integral_of_power(0, now, after), rel=1e-12)


def errors_even_in_lambda(order: int, gaussian, z) -> list[float]:
    errors = []
    for steps in (32, 64, 128, 256):
        solver = FlowDPM(times_even_in_lambda(steps), order)
        state = solver.start(gaussian.solution(z, solver.times[0].item()))
        for _ in range(steps):  # not the last step to 0, which is infinite in lambda
            state = solver.advance(state, gaussian.velocity(state.sample, state.sigma))
        errors.append((state.sample - gaussian.solution(z, state.sigma)).abs().max().item())
    return errors


# The published order 3 leaves half of the curvature out (module docstring), so theory gives it slope 2 as
# well.
@pytest.mark.parametrize(("order", "theory"), [(1, 1), (2, 2), (3, 2)])
def test_error_falls_with_the_order_that_theory_gives(order, theory, gaussian, z):
    errors = errors_even_in_lambda(order, gaussian, z)
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(abs(slope - theory) < 0.2 for slope in slopes), slopes


def test_higher_order_has_the_smaller_error(gaussian, z):
    first, second, third = (errors_even_in_lambda(order, gaussian, z)[0] for order in ORDERS)
    assert second < first / 10
    assert third < second / 2


@pytest.mark.parametrize("order", [2, 3])
def test_published_grid_beats_euler_at_twenty_steps(order, gaussian, z):
    def error(solver):
        state = solver.start(gaussian.solution(z, solver.times[0].item()))
        while not state.done:
            state = solver.advance(state, gaussian.velocity(state.sample, state.sigma))
        return (state.sample - gaussian.solution(z, 0.0)).abs().max().item()

    assert error(FlowDPM(dpm_times(20, 3.0), order)) < error(Euler(euler_times(20, 3.0))) / 3


@pytest.mark.parametrize("order", ORDERS)
def test_grid_may_start_at_exactly_one(order, gaussian, z):
    solver = FlowDPM(euler_times(80, 3.0), order)
    state = solver.start(z)
    while not state.done:
        state = solver.advance(state, gaussian.velocity(state.sample, state.sigma))
        assert state.sample.isfinite().all()
    torch.testing.assert_close(state.sample, gaussian.solution(z, 0.0), rtol=0, atol=0.03)


@pytest.mark.parametrize("order", ORDERS)
def test_interleaved_requests_equal_separate_ones(order, gaussian):
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(2, 6, generator=generator)
    solver = FlowDPM(dpm_times(6, 3.0), order)

    def step(state):
        return solver.advance(state, gaussian.velocity(state.sample, state.sigma))

    alone = []
    for noise in noises:
        state = solver.start(noise)
        while not state.done:
            state = step(state)
        alone.append(state.sample)
    early = step(step(solver.start(noises[0])))
    late = solver.start(noises[1])
    while not early.done:
        early, late = step(early), step(late)
    while not late.done:
        late = step(late)
    assert torch.equal(early.sample, alone[0])
    assert torch.equal(late.sample, alone[1])


@pytest.mark.parametrize("order", ORDERS)
def test_advancing_twice_from_one_state_gives_the_same(order, gaussian):
    solver = FlowDPM(dpm_times(20, 3.0), order)
    state = solver.start(torch.randn(4, generator=torch.Generator().manual_seed(0)))
    for _ in range(5):
        before, velocity = state.sample.clone(), gaussian.velocity(state.sample, state.sigma)
        first, again = solver.advance(state, velocity), solver.advance(state, velocity)
        assert torch.equal(first.sample, again.sample)
        assert torch.equal(state.sample, before)
        state = first
    assert len(state.history) == order - 1


def test_half_precision_is_widened_to_float32():
    solver = FlowDPM(dpm_times(3, 3.0))
    state = solver.start(torch.ones(2, dtype=torch.float16))
    while not state.done:
        assert state.sample.dtype == torch.float32
        state = solver.advance(state, torch.ones(2, dtype=torch.float16))
    assert state.sample.dtype == torch.float32


@pytest.mark.parametrize("order", [0, 4, 2.5])
def test_unknown_orders_are_refused_with_a_remedy(order):
    with pytest.raises(SettingsError, match=r"use 1, 2 \(usual\) or 3"):
        FlowDPM(dpm_times(5, 3.0), order)


def test_finished_states_are_refused():
    solver = FlowDPM(dpm_times(1, 3.0))
    state = solver.advance(solver.start(torch.ones(2)), torch.ones(2))
    with pytest.raises(ValueError, match="start again"):
        solver.advance(state, torch.ones(2))
