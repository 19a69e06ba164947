"""TrigFlow's view of a flow model: its identities, the published pipeline's formula, and its sampler."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sanakit.flow.path import trig_to_flow_time, velocity_target
from sanakit.flow.scm import SCM, scm_times
from sanakit.flow.trigflow import trigflow

SHAPE = (3, 4, 8, 8)
ANGLES = torch.tensor([0.1, 0.9, 1.5], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(sample: Tensor, t: float | Tensor) -> Tensor:
    """Any smooth function of sample and time."""
    t = torch.as_tensor(t, dtype=sample.dtype).reshape(-1, 1, 1, 1)
    return torch.sin(2 * sample + 3 * t) + sample.roll(1, -1) * t


def test_the_exact_velocity_gives_the_circles_own():
    clean, noise = draw(2, *SHAPE)
    cos, sin = (part.reshape(-1, 1, 1, 1) for part in (ANGLES.cos(), ANGLES.sin()))
    sample = cos * clean + sin * noise
    predicted = trigflow(lambda x_t, t: velocity_target(clean, noise))(sample, ANGLES)
    torch.testing.assert_close(predicted, cos * noise - sin * clean, rtol=0, atol=1e-13)
    torch.testing.assert_close(cos * sample - sin * predicted, clean, rtol=0, atol=1e-13)


def test_it_is_the_published_pipelines_formula():
    """What diffusers' SanaSprintPipeline sends its model and makes of the answer, with sigma_data 1."""
    sample, t = draw(*SHAPE), trig_to_flow_time(ANGLES).reshape(-1, 1, 1, 1)
    scale = torch.sqrt(t**2 + (1 - t) ** 2)
    seen = sample * scale
    expected = ((1 - 2 * t) * seen + (1 - 2 * t + 2 * t**2) * model(seen, t.flatten())) / scale
    torch.testing.assert_close(trigflow(model)(sample, ANGLES), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_diffusers_sampler_over_it_ends_where_ours_ends_without_it(steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.SCMScheduler(sigma_data=1.0)
    middle = 1.3 if steps == 2 else None
    scheduler.set_timesteps(steps, max_timesteps=math.pi / 2, intermediate_timesteps=middle)
    scheduler.set_begin_index(0)
    ours, theirs = (torch.Generator().manual_seed(5) for _ in range(2))
    noise, sample = (torch.randn(SHAPE, generator=generator) for generator in (ours, theirs))
    solver = SCM(scm_times(steps))
    state = solver.start(noise, ours)
    clean = sample
    for angle in scheduler.timesteps[:-1]:
        predicted = trigflow(model)(sample, angle)
        sample, clean = scheduler.step(predicted, angle, sample, generator=theirs, return_dict=False)
        state = solver.advance(state, model(state.sample, state.t))
    # float32, through a model that has slopes up to 3
    torch.testing.assert_close(state.sample, clean, rtol=0, atol=2e-5)


def test_its_tangent_is_its_slope_along_the_path():
    """Distillation takes it by forward differentiation."""
    sample, tangent, speed = draw(*SHAPE), draw(*SHAPE, seed=1), torch.ones_like(ANGLES)
    predict = trigflow(model)
    _, slope = torch.func.jvp(predict, (sample, ANGLES), (tangent, speed))
    step = 1e-6
    after, before = (predict(sample + h * tangent, ANGLES + h * speed) for h in (step, -step))
    torch.testing.assert_close(slope, (after - before) / (2 * step), rtol=0, atol=1e-7)


def test_one_angle_serves_a_batch():
    sample = draw(*SHAPE)
    one, each = (trigflow(model)(sample, angle) for angle in (0.7, torch.full((3,), 0.7)))
    torch.testing.assert_close(one, each, rtol=0, atol=1e-6)  # 0.7 in float32 is 1e-8 away
