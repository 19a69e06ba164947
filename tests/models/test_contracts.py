"""Latents of an image have one frame; what is drawn with keeps the contracts."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SizeError
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
