"""A teacher's trajectories: their states are where its ODE is at the few times; their ends are learned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.trajectories import teacher_trajectory, trajectory_errors, trajectory_times
from tests.train.distill.test_dmd import CHUNKS, SAMPLER, model, normal, words


class Straight:
    """A teacher whose velocity is that of one clip and one noise, whatever it is asked."""

    def __init__(self, clean: Tensor, noise: Tensor) -> None:
        self.towards = noise - clean

    def prepare(self, features: Sequence[Tensor]) -> int:
        return len(features)

    def velocity(self, latents: Tensor, t: float, context: int) -> Tensor:
        return self.towards.expand(context, *self.towards.shape)


def test_the_grid_goes_through_all_few_times_and_is_even_before_the_shift() -> None:
    """With LongSANA's times, which are 1, 3/4, 1/2 and 1/4 at a shift of 8: in four parts of one length."""
    times, places = trajectory_times(SAMPLER, 48, 8.0)
    assert places == [0, 12, 24, 36, 48]
    assert torch.equal(times[places], SAMPLER.times)
    assert (times.diff() < 0).all()
    even = times / (8 - 7 * times)
    assert (even.diff() + 1 / 48).abs().max() < 1e-3
    assert trajectory_times(FewTimes.at((1.0, 0.2)), 1, 1.0)[1] == [0, 1, 2]
    with pytest.raises(SettingsError, match="steps"):
        trajectory_times(SAMPLER, 0, 8.0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_states_of_a_straight_path_are_its_points(guidance: float) -> None:
    clean, noise = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    times, places = trajectory_times(SAMPLER, 12, 8.0)
    teacher, settings = Straight(clean, noise), {"times": times, "places": places, "guidance": guidance}
    empty = torch.zeros(1, 24)
    states = teacher_trajectory(teacher, noise, empty, empty, **settings)  # pyright: ignore[reportArgumentType]
    for state, level in zip(states, SAMPLER.times, strict=True):
        torch.testing.assert_close(state, (1 - level) * clean + level * noise, rtol=1e-12, atol=1e-12)


def test_states_are_those_of_the_guided_ode_solved_finely() -> None:
    """Against Heun's rule, of a model that bends: a twentieth of the way from one few time to the next."""
    teacher, noise = model(1), normal(4, 3, 2, 2)
    for parameter in teacher.t_embedder.parameters():
        parameter.data *= 0.1  # or its velocity trembles with the time
    text, negative = normal(5, 24, seed=9), normal(2, 24, seed=8)
    times, places = trajectory_times(SAMPLER, 48, 8.0)
    settings = {"times": times, "places": places, "guidance": 2.0}
    states = teacher_trajectory(teacher, noise, text, negative, **settings)  # pyright: ignore[reportArgumentType]

    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.tensor([t], dtype=torch.float64)
        c, u = (teacher(x[None], time, one[None])[0] for one in (text, negative))
        return u + 2 * (c - u)

    x, last = noise, noise
    with torch.no_grad():
        for number, (high, low) in enumerate(pairwise(SAMPLER.times.tolist()), 1):
            h = (low - high) / 12
            for step in range(12):
                v = velocity(x, high + step * h)
                x = x + h / 2 * (v + velocity(x + h * v, high + (step + 1) * h))
            assert (states[number] - x).norm() < 0.05 * (x - last).norm()
            last = x


def test_ends_of_trajectories_are_learned_from_every_state_but_the_end() -> None:
    """Against the equation frame by frame in float64, loss and gradient."""
    student: SanaVideo = model(0)
    text, mask = words(2)
    states = normal(2, 5, 4, 7, 2, 2)
    steps = torch.tensor([[4, 0, 2], [4, 4, 4]])
    found = trajectory_errors(student, states, steps, text, mask, chunks=CHUNKS, sampler=SAMPLER)
    each = [4, 4, 4, 0, 0, 2, 2]
    noisy = torch.stack([states[0, step, :, frame] for frame, step in enumerate(each)], dim=1)[None]
    t = torch.tensor([[(*SAMPLER.model_times,)[step] for step in each]], dtype=torch.float64)
    v = student(noisy, t, text[:1], mask[:1], chunks=CHUNKS)[0]
    errors = [
        (noisy[0, :, frame] - SAMPLER.times[step] * v[:, frame] - states[0, -1, :, frame]).square().mean()
        for frame, step in enumerate(each)
        if step != 4
    ]
    wanted = torch.stack(errors).mean()
    assert found[0].item() == pytest.approx(wanted.item(), rel=1e-10)
    assert found[1].item() == 0.0
    weight = student.blocks[0].attn.qkv.weight
    gradients = [torch.autograd.grad(one, weight, retain_graph=True)[0] for one in (found.sum(), wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_states_of_other_times_are_refused() -> None:
    text, mask = words(1)
    states, steps = normal(1, 4, 4, 7, 2, 2), torch.zeros(1, 3).long()
    with pytest.raises(SettingsError, match="4 states, the sampler 5 times"):
        trajectory_errors(model(0), states, steps, text, mask, chunks=CHUNKS, sampler=SAMPLER)
