"""sCM on a mixture of eight modes in the plane: one step of a student leads to the end of a known path.

The teacher is exact; the student is the teacher plus a small network that is zero at first. Measured is the
root mean square distance of one-step drawings from the ends of the teacher's paths.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sanakit.train.distill.scm import (
    angles,
    consistency_errors,
    first_expected,
    normalised,
    tangent,
)

MODES, RADIUS, SPREAD = 8, 1.4, 0.1
UPDATES, BATCH, RATE, WARMUP = 100, 128, 1e-2, 25
TURNS = torch.arange(MODES) * (2 * math.pi / MODES)
CENTRES = RADIUS * torch.stack([TURNS.cos(), TURNS.sin()], 1)


def teacher(x: Tensor, s: Tensor) -> Tensor:
    """D = cos E[noise | x] - sin E[x0 | x], exactly. x: B 2; s: B."""
    cos, sin = s.cos()[:, None], s.sin()[:, None]
    variance = cos**2 * SPREAD**2 + sin**2
    away = x[:, None] - cos[:, :, None] * CENTRES  # B modes 2
    weights = torch.softmax(-away.square().sum(-1) / (2 * variance), 1)
    clean = (weights[:, :, None] * (CENTRES + (SPREAD**2 * cos / variance)[:, :, None] * away)).sum(1)
    return cos * (x - cos * clean) / sin.clamp(min=1e-4) - sin * clean


def ends(noise: Tensor, steps: int = 200) -> Tensor:
    """Where the teacher's paths from pure noise end, by Heun's method."""
    x, grid = noise.clone(), torch.linspace(math.pi / 2, 0, steps + 1)
    for here, there in pairwise(grid):
        first = teacher(x, here.expand(len(x)))
        second = teacher(x + (there - here) * first, there.clamp(min=1e-3).expand(len(x)))
        x = x + (there - here) * (first + second) / 2
    return x


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU()
        )
        self.out = nn.Linear(32, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.expected = nn.Linear(2, 1)
        nn.init.zeros_(self.expected.weight)
        nn.init.constant_(self.expected.bias, first_expected(2))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        seen = torch.stack([s.cos(), s.sin(), (3 * s).sin()], 1)
        return teacher(x, s) + self.out(self.net(torch.cat([x, seen], 1)))


def distilled(ramp: float) -> float:
    """Distil with r growing to `ramp`; return the distance, of the undistilled one for no updates."""
    torch.manual_seed(0)
    student = Student()
    optimizer = torch.optim.Adam(student.parameters(), RATE, betas=(0.9, 0.99))
    for update in range(UPDATES):
        clean = CENTRES[torch.randint(MODES, (BATCH,))] + SPREAD * torch.randn(BATCH, 2)
        s = angles(torch.randn(BATCH), 0.2, 1.6)
        x = s.cos()[:, None] * clean + s.sin()[:, None] * torch.randn(BATCH, 2)
        r = ramp * min(1, update / WARMUP)
        prediction, change = tangent(student, x, s, teacher(x, s), r)
        expected = student.expected(torch.stack([s.cos(), s.sin()], 1)).squeeze(1)
        loss = consistency_errors(prediction, normalised(change, 0.2), s, expected).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - update / UPDATES)
        optimizer.step()
    return distance(student)


@torch.no_grad()
def distance(student: nn.Module) -> float:
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(5))
    drawn = -student(noise, torch.full((300,), math.pi / 2))
    return (drawn - ends(noise)).square().mean().sqrt().item()


def test_a_distilled_student_is_less_than_half_as_far_from_the_ends() -> None:
    before = distance(Student())
    assert before == pytest.approx(0.99, abs=0.05)
    assert distilled(1.0) < before / 2


def test_without_the_second_part_of_the_tangent_nothing_is_learned() -> None:
    assert distilled(0.0) == pytest.approx(distance(Student()), rel=1e-3)


def test_with_its_sign_turned_round_the_student_flies_away() -> None:
    assert distilled(-1.0) > 2 * distance(Student())
