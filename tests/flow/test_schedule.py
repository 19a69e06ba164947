from __future__ import annotations

import math

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.dpm import dpm_times
from sanakit.flow.euler import euler_times
from sanakit.flow.path import checked_times, half_log_snr, shift_times, trig_to_flow_time
from sanakit.flow.schedule import sample_training_times
from sanakit.flow.scm import scm_times

ALL_STEPS = [*range(1, 51), 100, 333, 1000]
SHIFTS = [0.5, 1.0, 3.0, 6.0]


@pytest.mark.parametrize("shift", SHIFTS)
def test_euler_times_equal_diffusers_bit_for_bit(shift):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    for steps in ALL_STEPS:
        scheduler.set_timesteps(steps)
        assert torch.equal(euler_times(steps, shift).float(), scheduler.sigmas), steps


@pytest.mark.parametrize("shift", SHIFTS)
def test_dpm_times_equal_diffusers_bit_for_bit(shift):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    for steps in ALL_STEPS:
        scheduler.set_timesteps(steps)
        assert torch.equal(dpm_times(steps, shift).float(), scheduler.sigmas), steps


def test_scm_times_are_the_angles_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.SCMScheduler()
    for steps in ALL_STEPS:
        scheduler.set_timesteps(
            steps, max_timesteps=math.pi / 2, intermediate_timesteps=1.3 if steps == 2 else None
        )
        expected = trig_to_flow_time(scheduler.timesteps.double())
        torch.testing.assert_close(scm_times(steps), expected, rtol=0, atol=2e-7)


def test_the_published_first_angle_is_pure_noise_rounded_up():
    published = trig_to_flow_time(torch.tensor(1.57080, dtype=torch.float64)).item()
    assert 1 < published < 1 + 4e-6
    assert scm_times(2)[0].item() == 1.0


def test_scm_times_descend_strictly_from_one_to_zero():
    for steps in (1, 2, 3, 4, 20, 1000):
        times = checked_times(scm_times(steps))
        assert times.shape == (steps + 1,)
        assert times[0].item() == 1.0


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize(("grid", "start"), [(euler_times, 1.0), (dpm_times, 0.999)])
def test_times_descend_strictly_from_shifted_start_to_zero(grid, start, shift):
    for steps in (1, 2, 20, 1000):
        times = grid(steps, shift)
        assert times.shape == (steps + 1,)
        assert times[0].item() == pytest.approx(shift * start / (1 + (shift - 1) * start), abs=1e-12)
        assert times[-1].item() == 0.0
        assert torch.all(times.float().diff() < 0)


def test_shift_one_changes_nothing_and_endpoints_stay():
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(shift_times(times, 1.0), times)
    shifted = shift_times(times, 3.0)
    assert (shifted[0].item(), shifted[-1].item()) == (0.0, 1.0)
    assert shifted[5].item() == 0.75


def test_shifts_multiply():
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(
        shift_times(shift_times(times, 2.0), 3.0), shift_times(times, 6.0), rtol=1e-14, atol=0
    )


def test_shift_subtracts_its_logarithm_from_half_log_snr():
    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for before, after in zip(times.tolist(), shift_times(times, 3.0).tolist(), strict=True):
        assert half_log_snr(after) == pytest.approx(half_log_snr(before) - math.log(3), abs=1e-14)


def test_training_times_have_the_quantiles_of_the_shifted_logit_normal():
    times = sample_training_times(40_000, 3.0, torch.Generator().manual_seed(0), mean=-0.3, std=0.8)
    assert times.dtype == torch.float32
    normal = torch.distributions.Normal(-0.3, 0.8)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    expected = shift_times(torch.sigmoid(normal.icdf(levels)), 3.0)
    torch.testing.assert_close(torch.quantile(times, levels), expected, rtol=0, atol=0.006)
    assert 0 < times.min() < times.max() < 1


def test_training_times_depend_on_the_generator_alone():
    first, again, other = (sample_training_times(5, 3.0, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_discretised_training_times_of_the_published_code_lie_within_a_thousandth():
    continuous = sample_training_times(2000, 1.0, torch.Generator().manual_seed(3))
    published = shift_times(torch.floor(1000 * continuous) / 1000, 3.0)
    # the slope of the shift is at most 3, at time 0
    assert (shift_times(continuous, 3.0) - published).abs().max() <= 3e-3


@pytest.mark.parametrize("grid", [euler_times, dpm_times])
@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, "20"])
def test_steps_out_of_range_are_refused_with_a_remedy(grid, steps):
    with pytest.raises(SettingsError, match="from 1 to 1000; 20 is usual"):
        grid(steps, 3.0)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf])
def test_shift_out_of_range_is_refused_with_a_remedy(shift):
    for use in (
        lambda: euler_times(20, shift),
        lambda: dpm_times(20, shift),
        lambda: shift_times(torch.ones(1), shift),
        lambda: sample_training_times(2, shift, torch.Generator()),
    ):
        with pytest.raises(SettingsError, match=r"finite number above 0; SANA uses 3\.0"):
            use()


@pytest.mark.parametrize(
    ("n", "mean", "std"), [(0, 0.0, 1.0), (4, math.nan, 1.0), (4, 0.0, 0.0), (4, 0.0, math.inf)]
)
def test_training_times_refuse_settings_out_of_range(n, mean, std):
    with pytest.raises(SettingsError):
        sample_training_times(n, 3.0, torch.Generator(), mean, std)


@pytest.mark.parametrize(
    "times",
    [
        torch.tensor([1.0]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([1.0, 0.5]),
        torch.tensor([0.5, 0.5, 0.0]),
        torch.tensor([0.2, 0.5, 0.0]),
        torch.tensor([1.1, 0.5, 0.0]),
        torch.tensor([math.nan, 0.0]),
        dpm_times(20, 1e9),
    ],
)
def test_what_is_no_time_grid_is_refused(times):
    with pytest.raises(SettingsError):
        checked_times(times)


def test_checked_times_are_a_copy():
    times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    grid = checked_times(times)
    times.zero_()
    assert grid.tolist() == [1.0, 0.5, 0.0]
