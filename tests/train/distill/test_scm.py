"""sCM: its parts against the published trainer's formulas in float64, and what it does to a known path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.flow.trigflow import clean_from_prediction, on_circle, trigflow
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.distill.scm import (
    Consistency,
    angles,
    consistency_errors,
    first_expected,
    guided_teacher,
    normalised,
    tangent,
)

HALF = 0.5  # sigma_data of the published trainer
CLOSE = {"rtol": 1e-6, "atol": 0.0}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Student(nn.Module):
    """Any smooth function of a sample and an angle, with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(draw(6, 6) / 3)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return torch.sin(x @ self.mix) * (1 + s[:, None].cos()) + x * s[:, None]


def test_the_loss_and_its_gradients_are_the_published_trainers() -> None:
    """In its own units: latents and noise times sigma_data, and derivatives along x / sigma_data."""
    student, count, values = Student(), 5, 6
    clean, noise, path = draw(3, count, values)
    s, u, r = torch.tensor([0.05, 0.4, 0.8, 1.2, 1.55], dtype=torch.float64), draw(count), 0.37
    u.requires_grad_(True)

    cos, sin = s.cos()[:, None], s.sin()[:, None]
    x_t = HALF * (cos * clean + sin * noise)
    pretrained = HALF * path  # dx/ds
    direction = cos * sin * pretrained / HALF, s.cos() * s.sin()
    _, moved = torch.func.jvp(student, (x_t / HALF, s), direction)
    f = student(x_t / HALF, s)
    g = -cos * cos * (HALF * f.detach() - pretrained) - r * (cos * sin * x_t + HALF * moved.detach())
    g = g / (torch.linalg.vector_norm(g, dim=1, keepdim=True) + 0.1)
    published = (1 / (HALF * s.tan()))[:, None] * torch.exp(-u)[:, None] * (f - f.detach() - g) ** 2
    published = (published + u[:, None]).mean(1)

    sample = on_circle(clean, noise, s)
    prediction, change = tangent(student, sample, s, path, r)
    errors = consistency_errors(prediction, normalised(change, Consistency().floor), s, u)
    torch.testing.assert_close(errors, published, **CLOSE)
    wanted = torch.autograd.grad(published.sum(), [student.mix, u])
    torch.testing.assert_close(torch.autograd.grad(errors.sum(), [student.mix, u]), wanted, **CLOSE)


def test_the_gradient_moves_the_prediction_by_the_tangent_and_knows_nothing_else() -> None:
    prediction, change, u = draw(3, 6).requires_grad_(True), draw(3, 6), draw(3).requires_grad_(True)
    angle = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64)
    consistency_errors(prediction, change, angle, u).sum().backward()
    weight = (torch.exp(-u) / (HALF * angle.tan())).detach()
    torch.testing.assert_close(prediction.grad, -2 / 6 * weight[:, None] * change, **CLOSE)
    torch.testing.assert_close(u.grad, 1 - weight * change.square().mean(1), **CLOSE)


def test_a_consistent_student_has_no_tangent() -> None:
    """Of one image, every point of the circle leads to it: F is that path's own derivative."""
    clean, noise = draw(1, 6), draw(4, 6)
    s = torch.tensor([0.2, 0.7, 1.1, 1.5], dtype=torch.float64)

    def student(x: Tensor, angle: Tensor) -> Tensor:  # cos(s) x - sin(s) F = clean
        return (angle.cos()[:, None] * x - clean) / angle.sin()[:, None]

    sample = on_circle(clean.expand(4, -1), noise, s)
    path = s.cos()[:, None] * noise - s.sin()[:, None] * clean
    prediction, change = tangent(student, sample, s, path, ramp=1.0)
    torch.testing.assert_close(clean_from_prediction(sample, prediction, s), clean.expand(4, -1))
    assert change.abs().max() < 1e-12


def test_angles_have_log_normal_noise_levels_and_stay_on_the_circle() -> None:
    normal = torch.randn(20_000)
    drawn = angles(normal, 0.2, 1.6)
    torch.testing.assert_close(
        (HALF * drawn.double().tan()).log(), 0.2 + 1.6 * normal.double(), rtol=0, atol=1e-3
    )
    assert drawn.min() > 0
    assert drawn.max() <= math.pi / 2 + 1e-7
    extreme = angles(torch.tensor([-7.0, 12.0]), 0.2, 1.6)  # the last one rounds to more than pi/2
    errors = consistency_errors(torch.zeros(2, 4), torch.ones(2, 4) / 2, extreme, torch.zeros(2))
    assert torch.isfinite(errors).all()
    assert errors[1] == 0


def test_tangents_are_normalised_by_the_norm_of_a_sample() -> None:
    change = draw(3, 2, 4, 4) * torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64).reshape(3, 1, 1, 1)
    lengths = change.flatten(1).norm(dim=1)
    got = normalised(change, 0.2).flatten(1).norm(dim=1)
    torch.testing.assert_close(got, lengths / (lengths + 0.2), **CLOSE)


def test_u_begins_where_the_loss_has_its_right_size() -> None:
    values = 32 * 32 * 32
    assert first_expected(values) == pytest.approx(-9.70, abs=0.01)
    change = torch.full((1, values), values**-0.5)  # of length 1
    s = torch.tensor([math.pi / 4])
    u = torch.full((1,), first_expected(values), requires_grad=True)
    consistency_errors(torch.zeros(1, values), change, s, u).backward()
    assert abs(u.grad.item()) < 1e-4  # neither to rise nor to fall
    late = torch.zeros(1, requires_grad=True)
    consistency_errors(torch.zeros(1, values), change, s, late).backward()
    assert late.grad.item() > 0.99  # from 0 on, u is all that learns


def test_the_teachers_prediction_is_guided_without_a_graph() -> None:
    config = SanaConfig(
        depth=1, width=32, cross_heads=2, text_width=8, latent_channels=4, qk_norm=True, time_scale=1.0
    )
    teacher = Sana(config)
    for parameter in teacher.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape)
    x, s, text = torch.randn(3, 4, 4, 4), torch.tensor([0.3, 0.9, 1.5]), torch.randn(3, 5, 8)
    mask, scales = torch.ones(3, 5, dtype=torch.bool), torch.tensor([4.0, 4.5, 5.0])
    got = guided_teacher(teacher, text, mask, scales)(x, s)
    assert not got.requires_grad
    only_bos = text[:, :1]
    told, untold = (trigflow(lambda y, t, f=f: teacher(y, t, f))(x, s) for f in (text, only_bos))
    wanted = untold + scales.reshape(3, 1, 1, 1) * (told - untold)
    torch.testing.assert_close(got, wanted.detach(), rtol=1e-4, atol=1e-5)


def test_the_second_part_of_the_tangent_comes_in_slowly() -> None:
    settings = Consistency(warmup=2000)
    assert [settings.ramp(update) for update in (0, 500, 2000, 9000)] == [0.0, 0.25, 1.0, 1.0]
    assert Consistency(warmup=0).ramp(0) == 1.0


@pytest.mark.parametrize(
    "wrong", [{"guidance": ()}, {"guidance": (0.0, 4.5)}, {"floor": 0.0}, {"warmup": -1}]
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(SettingsError):
        Consistency(**wrong)
