"""Latents of an image have one frame; what is drawn with keeps the contracts."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SettingsError, SizeError
from sanakit.flow import SCM, Euler, FlowDPM, Solver, dpm_times, euler_times, scm_times
from sanakit.models.contracts import LatentShape


def test_an_image_has_one_frame_and_a_clip_its_own() -> None:
    assert LatentShape.image(32, 4, 6) == LatentShape(32, 1, 4, 6)
    assert LatentShape.image(32, 4, 6).tokens == 24
    assert LatentShape.image(32, 4, 6).dims == (32, 4, 6)
    assert LatentShape(16, 3, 4, 6).tokens == 72
    assert LatentShape(16, 3, 4, 6).dims == (16, 3, 4, 6)
    with pytest.raises(SizeError, match="must be at least 1"):
        LatentShape.image(32, 0, 6)


@pytest.mark.parametrize(
    "solver", [Euler(euler_times(3, 3.0)), FlowDPM(dpm_times(3, 3.0)), SCM(scm_times(3))]
)
def test_every_solver_starts_and_advances_by_the_same_calls(solver: Solver) -> None:
    """And leaves the generator as it is; a state is advanced twice to the same sample."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 2, 2, generator=generator)
    before = generator.get_state()
    state = solver.start(noise, generator)
    while not state.done:
        further = solver.advance(state, state.sample)
        assert torch.equal(further.sample, solver.advance(state, state.sample).sample)
        state = further
    assert torch.equal(generator.get_state(), before)
    assert state.index == len(solver.times) - 1


@pytest.mark.parametrize(
    "latents",
    [
        torch.zeros(1, 4, 2, 2),
        torch.zeros(1, 4, 2, 3, dtype=torch.int64),
        torch.full((1, 4, 2, 3), float("nan")),
        [[0.0]],
    ],
)
def test_latents_that_do_not_fit_are_refused(latents):
    shape = LatentShape.image(4, 2, 3)
    with pytest.raises(SettingsError, match="finite floats of the shape"):
        shape.check(latents, 1)
    shape.check(torch.zeros(1, 4, 2, 3), 1)


def test_the_noise_of_a_seed_is_that_of_torchs_generator():
    shape, generator = LatentShape.image(4, 2, 3), torch.Generator().manual_seed(7)
    noise, own = shape.noise(7)
    torch.testing.assert_close(noise, torch.randn(4, 2, 3, generator=generator), rtol=0, atol=0)
    more = [torch.randn(5, generator=one) for one in (own, generator)]
    torch.testing.assert_close(*more, rtol=0, atol=0)
