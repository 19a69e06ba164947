"""Distribution matching: its gradient is the difference of scores, its clips are those that are drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.few_step import FewStep
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from sanakit.train.distill.dmd import (
    Matching,
    clean_seen,
    matching_errors,
    matching_times,
    roll_out,
    score_difference,
)
from sanakit.train.distill.few_times import FewTimes

CONFIG = SanaVideoConfig(
    depth=2,
    width=32,
    cross_heads=2,
    head_dim=16,
    text_width=24,
    latent_channels=4,
    max_positions=64,
    causal=True,
)
SAMPLER = FewTimes.at()
CHUNKS = [3, 2, 2]


def model(seed: int) -> SanaVideo:
    torch.manual_seed(seed)
    made = SanaVideo(CONFIG)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made.double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(batch: int) -> tuple[Tensor, Tensor]:
    return normal(batch, 5, 24, seed=9), torch.ones(batch, 5, dtype=torch.bool)


def test_the_gradient_is_the_difference_of_the_scores_in_float64() -> None:
    """Scores of the noised clips: -(x_t - (1 - t) clean) / t^2; their difference, times t^2 / (1 - t)."""
    real, fake = model(1), model(2)
    text, mask = words(2)
    drawn, noise, t = (
        normal(2, 4, 3, 2, 2).requires_grad_(),
        normal(2, 4, 3, 2, 2, seed=1),
        torch.tensor([0.3, 0.8]),
    )
    t = t.double()
    with torch.no_grad():
        wide = t[:, None, None, None, None]
        noisy = (1 - wide) * drawn + wide * noise
        seen = [noisy - wide * one(noisy, t, text, mask) for one in (real, fake)]
        scores = [-(noisy - (1 - wide) * clean) / wide**2 for clean in seen]
        wanted = (scores[1] - scores[0]) * wide**2 / (1 - wide)
        wanted = torch.stack(
            [one / (x - r).abs().mean() for one, x, r in zip(wanted, drawn, seen[0], strict=True)]
        )
        found = [clean_seen(one, noisy, t, text, mask) for one in (real, fake)]
        difference = score_difference(drawn, *found)
    matching_errors(drawn, difference).sum().backward()
    assert drawn.grad is not None
    count = drawn[0].numel()
    torch.testing.assert_close(drawn.grad * count, wanted, rtol=1e-10, atol=1e-12)


def test_a_clip_that_the_teacher_sees_as_it_is_stays() -> None:
    drawn = normal(2, 4, 3, 2, 2)
    other = drawn + 1
    moved = score_difference(drawn, torch.stack([drawn[0], other[0]]), other)
    assert torch.equal(moved[0], torch.zeros_like(moved[0]))
    assert moved[1].abs().sum() > 0


def test_times_are_shifted_and_limited() -> None:
    times = matching_times(4000, Matching(), torch.Generator().manual_seed(0))
    assert times.min().item() == pytest.approx(0.02)
    assert times.max().item() == pytest.approx(0.98)
    assert times.median().item() == pytest.approx(5 * 0.5 / (1 + 4 * 0.5), abs=0.01)
    with pytest.raises(SettingsError, match="must rise"):
        Matching(least=0.9, most=0.5)


def test_a_rolled_out_clip_is_that_of_the_sampler_in_chunks() -> None:
    """With the sampler's own noise, in all of its steps: 1e-5, as it asks at times in float32."""
    student = model(0)
    text, mask = words(1)
    sampler = ChunkSampler(transformer=student, height=2, width=2, solver=FewStep())
    point, drawn = ClipPoint.start(3), list[Tensor]()
    prompt = student.prepare([text[0]])
    noises: list[list[Tensor]] = [[] for _ in range(4)]
    random = torch.Generator().manual_seed(3)
    for frames in CHUNKS:
        latents, point = sampler.draw(point, frames, prompt)
        drawn.append(latents)
        for one in noises:
            one.append(torch.randn(1, 4, frames, 2, 2, generator=random))
    given = [torch.cat(one, dim=2).double() for one in noises]
    with torch.no_grad():
        found = roll_out(student, given, text, mask, chunks=CHUNKS, sampler=SAMPLER, last=3)
    torch.testing.assert_close(found, torch.cat(drawn, dim=2), rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_one_step_of_each_chunk_alone() -> None:
    """Those of the last chunk against its steps by hand."""
    student = model(0)
    text, mask = words(2)
    noises = [normal(2, 4, 7, 2, 2, seed=number) for number in range(3)]
    drawn = roll_out(student, noises, text, mask, chunks=CHUNKS, sampler=SAMPLER, last=2)
    parameters = list(student.parameters())
    found = torch.autograd.grad(drawn[:, :, 5:].sum(), parameters, retain_graph=True, allow_unused=True)
    past, sample, clean = drawn[:, :, :5].detach(), noises[0][:, :, 5:], drawn
    for step in range(3):
        t = torch.zeros(2, 7, dtype=torch.float64)
        t[:, 5:] = SAMPLER.model_times[step]
        v = student(torch.cat([past, sample.detach()], dim=2), t, text, mask, chunks=CHUNKS)[:, :, 5:]
        clean = sample.detach() - SAMPLER.times[step] * v
        if step < 2:
            sigma = SAMPLER.times[step + 1]
            sample = (1 - sigma) * clean + sigma * noises[step + 1][:, :, 5:]
    torch.testing.assert_close(drawn[:, :, 5:], clean)
    wanted = torch.autograd.grad(clean.sum(), parameters, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        again = roll_out(student, noises, text, mask, chunks=CHUNKS, sampler=SAMPLER, last=2)
    assert not again.requires_grad
