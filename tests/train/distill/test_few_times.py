"""The few times of a student: their steps are those of the solvers that draw with it."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.train.distill.few_times import FewTimes
from sanakit.weights.video.settings import WORLD_CHUNKS, ChunkSettings


def normal(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 2, 2, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("chunks", [ChunkSettings(), WORLD_CHUNKS], ids=["fresh noise", "euler"])
def test_a_step_is_that_of_the_solver_of_these_chunks(chunks: ChunkSettings) -> None:
    assert chunks.times is not None
    solver, sampler = chunks.solver(chunks.times), FewTimes.of(chunks)
    generator, velocity = torch.Generator().manual_seed(4), normal(1)
    state = solver.start(normal(0), generator)
    for step in range(sampler.steps):
        assert state.t == pytest.approx(sampler.model_times[step], abs=1e-7)
        assert state.sigma == pytest.approx(sampler.times[step].item(), abs=1e-7)
        clean = state.sample - state.sigma * velocity
        fresh = torch.randn(2, 3, 2, 2, 2, generator=generator) if sampler.fresh else None
        if step == sampler.steps - 1:
            fresh = normal(2) if sampler.fresh else None  # of no use behind the last step
        found = sampler.onward(step, clean, velocity, fresh)
        state = solver.advance(state, velocity)
        torch.testing.assert_close(state.sample, found, rtol=1e-6, atol=1e-6)
        velocity = velocity.flip(0) + step


def test_the_end_is_asked_at_time_zero() -> None:
    sampler = FewTimes.of(WORLD_CHUNKS)
    assert (sampler.model_times[-1], sampler.times[-1].item(), sampler.fresh) == (0, 0, False)
    assert sampler.times.tolist() == list(sampler.model_times)


def test_models_that_are_not_distilled_have_no_few_times() -> None:
    with pytest.raises(SettingsError, match="need times"):
        FewTimes.of(ChunkSettings(times=None))
    with pytest.raises(SettingsError, match="descend"):
        FewTimes.at((0.5, 0.9), None)
