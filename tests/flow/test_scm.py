from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.dpm import dpm_times
from sanakit.flow.path import interpolate, noise_from_velocity, trig_to_flow_time, velocity_towards
from sanakit.flow.scm import SCM, scm_times

SHAPE = (1, 4, 8, 8)
PUBLISHED = 1.57080  # diffusers' first angle: pi/2, rounded up


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def trigflow_prediction(angle: Tensor, sample: Tensor, velocity: Tensor) -> Tensor:
    """What SanaSprintPipeline makes of a flow model's answer, for its scheduler."""
    t = trig_to_flow_time(angle)
    scale = torch.sqrt(t**2 + (1 - t) ** 2)
    seen = sample / 0.5 * scale
    return ((1 - 2 * t) * seen + (1 - 2 * t + 2 * t**2) * velocity) / scale * 0.5


@pytest.mark.parametrize(("first_angle", "tolerance"), [(math.pi / 2, 1e-6), (PUBLISHED, 5e-6)])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_every_step_equals_diffusers(steps, first_angle, tolerance):
    """To float32's rounding from the same first angle; the published one is 3.7e-6 beyond pure noise."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.SCMScheduler()
    scheduler.set_timesteps(
        steps, max_timesteps=first_angle, intermediate_timesteps=1.3 if steps == 2 else None
    )
    scheduler.set_begin_index(0)
    ours, theirs, velocities = generator(), generator(), generator(1)
    noise = torch.randn(SHAPE, generator=ours)
    expected = 0.5 * torch.randn(SHAPE, generator=theirs)
    solver = SCM(scm_times(steps))
    state = solver.start(noise, ours)
    for angle, following in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
        assert state.t == pytest.approx(trig_to_flow_time(angle).item(), abs=tolerance)
        velocity = torch.randn(SHAPE, generator=velocities)
        prediction = trigflow_prediction(angle, expected, velocity)
        expected, _ = scheduler.step(prediction, angle, expected, generator=theirs, return_dict=False)
        state = solver.advance(state, velocity)
        in_flow = expected / 0.5 / (torch.sin(following) + torch.cos(following))
        assert (state.sample - in_flow).norm() <= tolerance * in_flow.norm()
    assert state.done
    assert (state.index, state.total, state.t, state.sigma) == (steps, steps, 0.0, 0.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_a_velocity_that_points_to_one_image_is_followed_exactly(steps):
    clean, noise = torch.randn(2, *SHAPE, generator=generator(), dtype=torch.float64)
    solver = SCM(scm_times(steps))
    state = solver.start(noise, generator())
    while not state.done:
        state = solver.advance(state, velocity_towards(clean, state.sample, state.sigma))
    torch.testing.assert_close(state.sample, clean, rtol=0, atol=1e-13)


def test_every_step_has_its_own_standard_normal_noise():
    clean = torch.full((1, 4, 64, 64), 3.0)
    solver, rng = SCM(scm_times(4)), generator()
    state = solver.start(torch.randn(clean.shape, generator=rng), rng)
    seen = [state.sample]
    for _ in range(3):
        state = solver.advance(state, velocity_towards(clean, state.sample, state.sigma))
        velocity = velocity_towards(clean, state.sample, state.sigma)
        seen.append(noise_from_velocity(state.sample, velocity, state.sigma))
    correlation = torch.corrcoef(torch.stack(seen).flatten(1))
    torch.testing.assert_close(correlation, torch.eye(4), rtol=0, atol=0.03)
    for noise in seen:
        assert abs(noise.mean().item()) < 0.03
        assert abs(noise.std().item() - 1) < 0.03


def test_fresh_noise_continues_what_drew_the_first_and_leaves_it_as_it_is():
    rng, twin = generator(5), generator(5)
    noise = torch.randn(SHAPE, generator=rng)
    stood = rng.get_state()
    torch.randn(SHAPE, generator=twin)
    solver = SCM(scm_times(3))
    state = solver.start(noise, rng)
    for _ in range(2):
        velocity = torch.randn(SHAPE, generator=generator(6))
        clean = state.sample - state.sigma * velocity
        state = solver.advance(state, velocity)
        expected = interpolate(clean, torch.randn(SHAPE, generator=twin), state.sigma)
        torch.testing.assert_close(state.sample, expected)
    solver.advance(state, velocity)
    assert torch.equal(rng.get_state(), stood)


def test_states_are_immutable_and_advancing_twice_gives_the_same():
    solver = SCM(scm_times(3))
    noise, velocity = torch.ones(2), torch.full((2,), 0.25)
    state = solver.start(noise, generator())
    first = solver.advance(state, velocity)
    torch.randn(3)  # somebody else's random numbers play no part
    again = solver.advance(state, velocity)
    assert torch.equal(first.sample, again.sample)
    assert torch.equal(first.random, again.random)
    assert torch.equal(noise, torch.ones(2))
    assert torch.equal(velocity, torch.full((2,), 0.25))
    assert state.index == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.index = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_noise_does_not_depend_on_the_default_dtype():
    def ended() -> Tensor:
        solver = SCM(scm_times(2))
        state = solver.start(torch.ones(3, dtype=torch.float32), generator())
        return solver.advance(state, torch.ones(3, dtype=torch.float32)).sample

    expected = ended()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(ended(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_half_precision_is_widened_to_float32():
    solver = SCM(scm_times(2))
    state = solver.start(torch.ones(2, dtype=torch.bfloat16), generator())
    assert state.sample.dtype == torch.float32
    assert solver.advance(state, torch.ones(2, dtype=torch.bfloat16)).sample.dtype == torch.float32


def test_a_tail_of_the_times_starts_at_the_noised_image():
    clean, noise = torch.randn(2, *SHAPE, generator=generator())
    solver = SCM(scm_times(2)[1:])
    state = solver.start(interpolate(clean, noise, solver.times[0].item()), generator())
    assert (state.total, state.sigma) == (1, pytest.approx(0.7827, abs=1e-4))
    state = solver.advance(state, noise - clean)
    torch.testing.assert_close(state.sample, clean, rtol=0, atol=1e-6)


def test_finished_states_foreign_shapes_and_no_grids_are_refused():
    solver = SCM(scm_times(1))
    state = solver.start(torch.ones(2), generator())
    with pytest.raises(ValueError, match=r"shape \(1,\), the sample \(2,\)"):
        solver.advance(state, torch.ones(1))
    state = solver.advance(state, torch.ones(2))
    with pytest.raises(ValueError, match="start again"):
        solver.advance(state, torch.ones(2))
    with pytest.raises(SettingsError, match="descend"):
        SCM(dpm_times(4, 3.0).flip(0))
