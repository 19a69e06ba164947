from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from sanakit.flow.euler import Euler, euler_times


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 14, 20, 28])
def test_every_step_equals_diffusers(steps, shift):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(steps)
    expected = torch.randn(1, 4, 8, 8, generator=generator)
    solver = Euler(euler_times(steps, shift))
    state = solver.start(expected)
    for model_time in scheduler.timesteps:
        assert 1000 * torch.tensor(state.t) == model_time
        velocity = torch.randn(1, 4, 8, 8, generator=generator)
        expected = scheduler.step(velocity, model_time, expected, return_dict=False)[0]
        state = solver.advance(state, velocity)
        assert (state.sample - expected).norm() <= 1e-6 * expected.norm()
    assert state.done
    assert (state.index, state.total, state.t, state.sigma) == (steps, steps, 0.0, 0.0)


@pytest.mark.parametrize(("steps", "shift"), [(1, 3.0), (20, 3.0), (28, 4.0), (50, 6.0)])
def test_whole_times_are_those_below_and_the_steps_stay_as_long(steps, shift):
    solver, exact = Euler(euler_times(steps, shift), whole=True), Euler(euler_times(steps, shift))
    ours, theirs, moves = solver.start(torch.ones(2)), exact.start(torch.ones(2)), 0
    while not ours.done:
        assert ours.t == math.floor(1000 * ours.sigma) / 1000
        assert (ours.sigma, torch.equal(ours.sample, theirs.sample)) == (theirs.t, True)
        moves += ours.t != theirs.t
        velocity = torch.full((2,), 0.5)
        ours, theirs = solver.advance(ours, velocity), exact.advance(theirs, velocity)
    assert moves >= 0.8 * (steps - 1)  # the first is 1
    assert ours.t == 0


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_constant_velocity_is_followed_exactly(steps):
    clean, noise = (
        torch.tensor([2.0, -1.0], dtype=torch.float64),
        torch.tensor([0.5, 3.0], dtype=torch.float64),
    )
    solver = Euler(euler_times(steps, 3.0))
    state = solver.start(noise)
    while not state.done:
        state = solver.advance(state, noise - clean)
    torch.testing.assert_close(state.sample, clean, rtol=0, atol=1e-14)


def test_error_falls_in_proportion_to_the_step(gaussian, z):
    errors = []
    for steps in (32, 64, 128, 256):
        solver = Euler(euler_times(steps, 3.0))
        state = solver.start(gaussian.solution(z, 1.0))
        while not state.done:
            state = solver.advance(state, gaussian.velocity(state.sample, state.sigma))
        errors.append((state.sample - gaussian.solution(z, 0.0)).abs().max().item())
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(0.95 < slope < 1.05 for slope in slopes), slopes


def test_half_precision_is_widened_to_float32():
    solver = Euler(euler_times(2, 3.0))
    state = solver.start(torch.ones(2, dtype=torch.bfloat16))
    assert state.sample.dtype == torch.float32
    state = solver.advance(state, torch.full((2,), 0.1, dtype=torch.bfloat16))
    assert state.sample.dtype == torch.float32
    expected = 1 + (state.sigma - 1) * torch.tensor(0.1, dtype=torch.bfloat16).double().item()
    assert state.sample[0].item() == pytest.approx(expected, rel=1e-7)


def test_states_are_immutable_and_advancing_twice_gives_the_same():
    solver = Euler(euler_times(3, 3.0))
    noise, velocity = torch.ones(2), torch.full((2,), 0.25)
    state = solver.start(noise)
    first, again = solver.advance(state, velocity), solver.advance(state, velocity)
    assert torch.equal(first.sample, again.sample)
    assert torch.equal(noise, torch.ones(2))
    assert torch.equal(velocity, torch.full((2,), 0.25))
    assert state.index == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.index = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_finished_states_and_foreign_shapes_are_refused():
    solver = Euler(euler_times(1, 3.0))
    state = solver.start(torch.ones(2))
    with pytest.raises(ValueError, match=r"shape \(1,\), the sample \(2,\)"):
        solver.advance(state, torch.ones(1))
    state = solver.advance(state, torch.ones(2))
    with pytest.raises(ValueError, match="start again"):
        solver.advance(state, torch.ones(2))
