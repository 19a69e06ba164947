"""Chunks that begin one after another: against the published loop written out again, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.guidance_kinds import read_kind
from sanakit.models.video.held_frame import HeldFirstFrame, behind
from sanakit.models.world.steered import SteeredWorld
from sanakit.pipelines.denoise import Batch, Sample
from sanakit.pipelines.video.staggered import StaggeredClip, chunk_starts
from tests.models.world.worlds import TINY, apart, randomised, seen

GRID, CHUNKS, STEPS, SHIFT = (10, 2, 3), (4, 3, 3), 5, 9.8
PATH = seen(GRID)
WORDS = {"prompt": torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(5)).double()}
WORDS["negative"] = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(6)).double()
SHAPE = (1, 8, *GRID)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomised(replace(TINY, variant="chunk_causal"), 0.1).double()


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)).double()


def begun(model, noise: Tensor, guidance: float = 1.0, kind: str = "cfg"):
    """Return the held first frame, what it is bound to, and the frames behind it as a sample."""
    first = noise[:, :, :1]
    held = HeldFirstFrame(SteeredWorld(model, PATH, chunks=CHUNKS), first)
    solver = Euler(euler_times(STEPS, SHIFT))
    state = solver.start(noise[:, :, 1:])
    prompt, negative = (held.prepare(list(WORDS[name])) for name in ("prompt", "negative"))
    return (
        first,
        held,
        Sample(
            solver=solver,
            state=state,
            clean=state.sample,
            guidance=guidance,
            prompt=prompt,
            negative=negative if guidance > 1 else None,
            kind=read_kind(kind),
        ),
    )


@torch.no_grad()
def published(model, noise: Tensor, guidance: float, lowest: float = 0.0) -> Tensor:
    """Draw with a table of times, as ChunkFlowEuler has it: -1 before a chunk begins, 0 once it is done.

    lowest: time below which a chunk's velocity is that of the prompt alone.
    """
    grid = euler_times(STEPS, SHIFT)
    count, interval = len(CHUNKS), 1 / len(CHUNKS)
    starts = [int(number * interval * STEPS) for number in range(count)]
    table = torch.full((count, starts[-1] + STEPS), -1.0, dtype=torch.float64)
    for number, start in enumerate(starts):
        table[number, start : start + STEPS] = grid[:-1]
        table[number, start + STEPS :] = 0
    x = noise.clone()
    for column in table.T:
        seen_chunks = int((column >= 0).sum())
        frames = sum(CHUNKS[:seen_chunks])
        times = torch.cat([column[i].repeat(CHUNKS[i]) for i in range(seen_chunks)])
        times[0] = 0  # the image
        given = {"cameras": PATH.cameras[None, :frames], "plucker": PATH.plucker[None, :, :frames].double()}
        given["chunks"] = CHUNKS[:seen_chunks]
        v, u = (
            model(x[:, :, :frames], times.float()[None], WORDS[name], **given)
            for name in ("prompt", "negative")
        )
        guided = (times >= lowest)[None, None, :, None, None]
        v = torch.where(guided, u + guidance * (v - u), v)
        lower = grid[None] < times[:, None] - 1e-6  # per token: the next lower time of the schedule
        after = torch.where(lower, grid[None], torch.zeros(())).amax(1)
        x[:, :, :frames] += (after - times)[None, None, :, None, None] * v
    return x


def drawn(model, noise: Tensor, *given) -> Tensor:
    first, held, sample = begun(model, noise, *given)
    clip = StaggeredClip(held, [sample], lengths=[CHUNKS[0] - 1, *CHUNKS[1:]])
    while clip.progress[0] < clip.progress[1]:
        clip.step()
    return behind(first, clip.latents)


def test_a_clip_is_that_of_the_published_loop(model, noise) -> None:
    found = drawn(model, noise, 3.0)
    assert apart(found, published(model, noise, 3.0)) < 1e-9
    assert torch.equal(found[:, :, 0], noise[:, :, 0])
    first, held, sample = begun(model, noise, 3.0)
    together = Batch(held, [sample])
    while together.progress[0] < together.progress[1]:
        together.step()
    assert apart(behind(first, together.latents), found) > 0.01, "beginning together draws another clip"


def test_each_chunk_is_guided_within_the_interval_by_its_own_time(model, noise) -> None:
    lowest = 0.9
    assert euler_times(STEPS, SHIFT)[2] > lowest > euler_times(STEPS, SHIFT)[4]
    found = drawn(model, noise, 3.0, f"cfg,interval={lowest}-1")
    assert apart(found, published(model, noise, 3.0, lowest)) < 1e-9
    assert apart(found, published(model, noise, 3.0)) > 1e-4


def test_chunks_that_are_done_stay_in_sight_and_chunks_that_wait_do_not(model, noise, monkeypatch) -> None:
    _, held, sample = begun(model, noise)
    calls, velocity = [], held.velocity
    monkeypatch.setattr(
        held, "velocity", lambda x, t, *a, **k: calls.append((x.shape[2], t[0])) or velocity(x, t, *a, **k)
    )
    clip = StaggeredClip(held, [sample], lengths=[3, 3, 3])
    waiting = clip.latents[:, :, 6:].clone()
    for step in range(1, 9):
        clip.step()
        assert clip.progress == (step, 8)
        if step == 3:
            assert torch.equal(clip.latents[:, :, 6:], waiting)
    assert [frames for frames, _ in calls] == [3, 6, 6, 9, 9, 9, 9, 9]
    grid = euler_times(STEPS, SHIFT)
    for step, (_, times) in enumerate(calls):
        wanted = [grid[min(step - start, STEPS)] for start in (0, 1, 3) if start <= step]
        assert torch.allclose(times[::3].double(), torch.stack(wanted), atol=1e-6)


def test_a_step_that_fails_leaves_all_chunks_where_they_stood(model, noise, monkeypatch) -> None:
    _, held, sample = begun(model, noise)
    clip = StaggeredClip(held, [sample], lengths=[3, 3, 3])
    clip.step()
    before, velocity = clip.latents, held.velocity
    monkeypatch.setattr(held, "velocity", lambda *a, **k: velocity(*a, **k)[:, :, :2])
    with pytest.raises((RuntimeError, ValueError)):
        clip.step()
    assert torch.equal(clip.latents, before)
    assert clip.progress == (1, 8)


def test_starts_are_rounded_as_the_published_code_rounds_them() -> None:
    assert chunk_starts(1, 60) == [0]
    assert chunk_starts(4, 60) == [0, 15, 30, 45]
    assert chunk_starts(49, 49)[1] == 0, "1 / 49 * 49 is a little below 1"


def test_chunks_of_another_clip_are_refused(model, noise) -> None:
    _, held, sample = begun(model, noise)
    with pytest.raises(ValueError, match="The chunks have 10 latent frames, the clip 9"):
        StaggeredClip(held, [sample], lengths=CHUNKS)
