"""LongSANA's sampler against the arithmetic of the released one, written out in its own dtypes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.few_step import LONG_SANA_TIMES, FewStep
from sanakit.flow.path import velocity_towards
from sanakit.flow.solver import State

SHAPE = (1, 4, 3, 8, 6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def finish(solver: FewStep, state: State, velocity) -> State:
    while not state.done:
        state = solver.advance(state, velocity(state))
    return state


def released(steps: list[int], velocities: list[Tensor], draw: torch.Generator) -> list[Tensor]:
    """Samples at each of the whole model times `steps`, then the result, from a grid of model times."""
    levels = torch.linspace(1.0, 0.0, 1001)[:-1]
    levels = 7.0 * levels / (1 + (7.0 - 1) * levels)
    grid = levels * 1000
    samples = [torch.randn(SHAPE, generator=draw)]
    for number, step in enumerate(steps):
        nearest = torch.argmin((grid.double() - step).abs())
        clean = (samples[-1].double() - levels[nearest].double() * velocities[number].double()).float()
        if number + 1 < len(steps):
            level = levels[torch.argmin((grid - steps[number + 1]).abs())]
            clean = (1 - level) * clean + level * torch.randn(SHAPE, generator=draw)
        samples.append(clean)
    return samples


def test_every_step_equals_the_released_sampler_bit_for_bit():
    draws, ours = torch.randn(4, *SHAPE, generator=generator(1)), generator()
    expected = released([1000, 960, 889, 727], list(draws), generator())
    solver = FewStep()
    state = solver.start(torch.randn(SHAPE, generator=ours), ours)
    for number, velocity in enumerate(draws):
        assert torch.equal(state.sample, expected[number])
        state = solver.advance(state, velocity)
    assert torch.equal(state.sample, expected[4])
    assert (state.done, state.t, state.sigma, state.index, state.total) == (True, 0.0, 0.0, 4, 4)


def test_the_model_is_asked_at_its_times_and_noised_to_the_nearest_level_of_the_shifted_grid():
    solver, asked = FewStep(), []
    finish(solver, solver.start(torch.zeros(1), generator()), lambda s: asked.append(s.t) or s.sample)
    assert asked == list(LONG_SANA_TIMES)
    levels = [7 * step / (1000 + 6 * step) for step in (1000, 774, 534, 276)]
    assert solver.times.tolist() == pytest.approx([*levels, 0.0], abs=1e-7)
    assert levels == pytest.approx([1, 0.95996, 0.88915, 0.72741], abs=1e-5)
    other = FewStep((0.5,), shift=1.0)
    assert (other.times.tolist(), other.model_times) == ([0.5, 0.0], (0.5, 0.0))


def test_a_velocity_that_points_to_one_clip_is_followed_to_it():
    target, noise = torch.randn(2, *SHAPE, generator=generator(), dtype=torch.float64)
    solver = FewStep()
    state = finish(
        solver, solver.start(noise, generator()), lambda s: velocity_towards(target, s.sample, s.sigma)
    )
    assert state.sample.dtype == torch.float64
    assert (state.sample - target).abs().max() < 1e-14


def test_fresh_noise_continues_the_numbers_of_the_first_and_a_state_can_be_advanced_twice():
    draw, solver = generator(3), FewStep()
    state = solver.start(torch.randn(SHAPE, generator=draw), draw)
    second, again = (solver.advance(state, state.sample) for _ in range(2))
    assert torch.equal(second.sample, again.sample)
    level = solver.times[1].item()  # the clean latents are 0: only noise is left
    fresh = torch.randn(SHAPE, generator=draw)
    assert torch.equal(second.sample, level * fresh)
    assert second.random is not None
    assert torch.equal(second.random, draw.get_state())
    last = finish(solver, second, lambda s: s.sample)
    for _ in range(2):
        torch.randn(SHAPE, generator=draw)
    assert last.random is not None
    assert torch.equal(last.random, draw.get_state())  # the last step draws nothing


@pytest.mark.parametrize("times", [(), (1.2,), (0.5, 0.0), (0.5, float("nan")), (-0.1,)])
def test_times_outside_of_the_path_are_refused(times):
    with pytest.raises(SettingsError, match="each above 0 and up to 1"):
        FewStep(times)


@pytest.mark.parametrize("times", [(0.5, 0.6), (0.5, 0.5), (1.0, 0.99999)])
def test_times_that_do_not_descend_to_other_levels_are_refused(times):
    with pytest.raises(SettingsError, match="must descend strictly"):
        FewStep(times)
    with pytest.raises(SettingsError, match="shift"):
        FewStep(shift=0.0)


def test_a_state_of_another_solver_and_a_finished_one_are_refused():
    solver, noise = FewStep((1.0,)), torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="no random numbers"):
        solver.advance(Euler(euler_times(2, 3.0)).start(noise), noise)
    state = solver.advance(solver.start(noise, generator()), noise)
    with pytest.raises(ValueError, match="steps are done"):
        solver.advance(state, noise)
    with pytest.raises(ValueError, match="must be equal"):
        solver.advance(dataclasses.replace(state, index=0), noise[:, :, :1])
