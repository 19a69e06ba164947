from __future__ import annotations

import math

import pytest
import torch

from sanakit.flow import path
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.euler import Euler, euler_times


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, torch.tensor([0.2, 0.9], dtype=torch.float64)])
def test_velocity_recovers_both_ends_of_the_path(t):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    sample = path.interpolate(clean, noise, t)
    velocity = path.velocity_target(clean, noise)
    torch.testing.assert_close(path.clean_from_velocity(sample, velocity, t), clean, rtol=0, atol=1e-14)
    torch.testing.assert_close(path.noise_from_velocity(sample, velocity, t), noise, rtol=0, atol=1e-14)


def test_time_one_is_noise_and_time_zero_is_clean():
    clean, noise = torch.full((1, 2), 5.0), torch.full((1, 2), -3.0)
    assert torch.equal(path.interpolate(clean, noise, 1.0), noise)
    assert torch.equal(path.interpolate(clean, noise, 0.0), clean)
    assert torch.equal(path.velocity_target(clean, noise), torch.full((1, 2), -8.0))


def test_a_shift_moves_times_towards_noise_as_the_equation_says():
    """s t / (1 + (s - 1) t), whose ends stay."""
    times = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    expected = torch.tensor([1.0, 0.75, 3 / 7, 0.0], dtype=torch.float64)
    torch.testing.assert_close(path.shift_times(times, 3.0), expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(path.shift_times(expected, 1 / 3), times, rtol=1e-15, atol=0)


def test_one_time_per_sample_equals_sample_by_sample():
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 3, 2, 4, 4, generator=generator)
    times = torch.tensor([0.1, 0.5, 0.8])
    together = path.interpolate(clean, noise, times)
    for i in range(3):
        torch.testing.assert_close(together[i], path.interpolate(clean[i], noise[i], times[i].item()))


def test_velocity_is_the_derivative_of_the_path():
    generator = torch.Generator().manual_seed(2)
    clean, noise = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64)
    derivative = torch.func.jacfwd(lambda t: path.interpolate(clean, noise, t))(t)
    torch.testing.assert_close(derivative, path.velocity_target(clean, noise))


def test_interpolation_equals_diffusers_scale_noise():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 7, 2, 4, 4, generator=generator)
    expected = scheduler.scale_noise(clean, scheduler.timesteps, noise)
    times = path.from_model_time(scheduler.timesteps)
    torch.testing.assert_close(path.interpolate(clean, noise, times), expected, rtol=1e-6, atol=1e-6)


def test_model_time_runs_to_one_thousand_and_back():
    assert path.to_model_time(1.0) == 1000.0
    assert path.from_model_time(path.to_model_time(0.25)) == 0.25


def test_half_log_snr_is_the_logit_with_infinite_ends():
    assert path.half_log_snr(0.5) == 0.0
    assert path.half_log_snr(0.2) == pytest.approx(math.log(4))
    assert path.half_log_snr(0.8) == pytest.approx(-math.log(4))
    assert (path.half_log_snr(1.0), path.half_log_snr(0.0)) == (-math.inf, math.inf)


def test_a_trigflow_sample_is_the_flow_sample_scaled():
    clean, noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    angles = torch.linspace(0, math.pi / 2, 5, dtype=torch.float64)
    column, times = angles[:, None], path.trig_to_flow_time(angles)
    trig = 0.5 * (torch.cos(column) * clean + torch.sin(column) * noise)
    scaled = trig / 0.5 * torch.sqrt(times**2 + (1 - times) ** 2)[:, None]
    torch.testing.assert_close(scaled, path.interpolate(clean, noise, times), rtol=0, atol=1e-14)
    assert times.tolist() == pytest.approx([0, 0.29289322, 0.5, 0.70710678, 1])


@pytest.mark.parametrize("t", [1.0, 0.3, 1e-3, torch.tensor([0.9, 0.01], dtype=torch.float64)])
def test_the_velocity_towards_a_clean_latent_points_to_it(t):
    generator = torch.Generator().manual_seed(4)
    clean, sample = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    velocity = path.velocity_towards(clean, sample, t)
    torch.testing.assert_close(path.clean_from_velocity(sample, velocity, t), clean, rtol=0, atol=1e-12)


def test_the_velocity_towards_where_a_sample_comes_from_is_its_own():
    generator = torch.Generator().manual_seed(5)
    clean, noise = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    times = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    sample = path.interpolate(clean, noise, times)
    expected = path.velocity_target(clean, noise)
    torch.testing.assert_close(path.velocity_towards(clean, sample, times), expected)


@pytest.mark.parametrize("solver", [Euler(euler_times(7, 3.0)), FlowDPM(dpm_times(7, 3.0), order=3)])
def test_every_solver_follows_it_to_the_clean_latent(solver):
    clean, noise = torch.randn(2, 1, 2, 4, 4, generator=torch.Generator().manual_seed(6))
    state = solver.start(noise)
    while not state.done:
        state = solver.advance(state, path.velocity_towards(clean, state.sample, state.sigma))
    torch.testing.assert_close(state.sample, clean, rtol=0, atol=1e-6)
