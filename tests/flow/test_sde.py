"""Stochastic Euler: its transition is the published one, and its samples have the flow's distribution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from sanakit.errors import SettingsError
from sanakit.flow.dpm import dpm_times
from sanakit.flow.euler import Euler
from sanakit.flow.path import shift_times
from sanakit.flow.sde import StochasticEuler, transition

TIMES = torch.linspace(1, 0, 11, dtype=torch.float64)


def published(x: Tensor, v: Tensor, t: float, after: float, level: float) -> tuple[Tensor, float]:
    """Mean and deviation by the paper's equation, in its own order of terms."""
    dt, top = after - t, after if t == 1 else t
    s = level * math.sqrt(t / (1 - top))
    return x + (v + s * s / (2 * t) * (x + (1 - t) * v)) * dt, s * math.sqrt(-dt)


@pytest.mark.parametrize("place", [0, 1, 5, 9])
def test_a_transition_is_the_papers(place: int) -> None:
    x, v = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    t, after = TIMES[place], TIMES[place + 1]
    mean, deviation = transition(x, v, t.expand(3), after.expand(3), 0.7)
    wanted, spread = published(x, v, t.item(), after.item(), 0.7)
    torch.testing.assert_close(mean, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(deviation.flatten(), torch.full((3,), spread, dtype=torch.float64))


def test_samples_keep_the_flows_distribution() -> None:
    """Data are N(1, 1/4), so that the velocity is known: E(noise - x0) at x_t."""

    def velocity(x: Tensor, t: float) -> Tensor:
        variance = (1 - t) ** 2 / 4 + t**2
        away = x - (1 - t)
        clean, noise = 1 + (1 - t) / 4 * away / variance, t * away / variance
        return noise - clean

    solver = StochasticEuler(torch.linspace(1, 0, 101, dtype=torch.float64), 0.7)
    generator = Generator().manual_seed(0)
    state = solver.start(torch.randn(20_000, generator=generator, dtype=torch.float64), generator)
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
    assert state.sample.mean().item() == pytest.approx(1, abs=0.02)
    assert state.sample.std().item() == pytest.approx(0.5, abs=0.02)


def test_a_state_advances_twice_to_the_same_sample_and_noise_is_the_samples_own() -> None:
    solver, noise = StochasticEuler(TIMES), torch.randn(1, 4, 2, 2)
    state = solver.start(noise, Generator().manual_seed(3))
    first, again = (solver.advance(state, noise).sample for _ in range(2))
    assert torch.equal(first, again)
    other = solver.advance(solver.start(noise, Generator().manual_seed(4)), noise).sample
    assert not torch.equal(first, other)
    assert not torch.equal(first, Euler(TIMES).advance(Euler(TIMES).start(noise), noise).sample)


@pytest.mark.parametrize("level", [0, -1, math.inf, math.nan, True, "0.7"])
def test_other_levels_are_refused(level: object) -> None:
    with pytest.raises(SettingsError, match="level of noise"):
        StochasticEuler(TIMES, level)  # pyright: ignore[reportArgumentType]


def test_a_grid_that_begins_just_below_one_is_refused() -> None:
    """There s is 40, and the first step would be nothing but noise."""
    with pytest.raises(SettingsError, match=r"from the time 0\.999\d+ adds noise of"):
        StochasticEuler(dpm_times(10, 3.0))
    StochasticEuler(shift_times(TIMES, 3.0))
    with pytest.raises(SettingsError, match="lower level"):
        StochasticEuler(TIMES, 5.0)


def test_a_state_of_another_solver_is_refused() -> None:
    noise = torch.randn(1, 4, 2, 2)
    with pytest.raises(ValueError, match="no random numbers"):
        StochasticEuler(TIMES).advance(Euler(TIMES).start(noise), noise)
