"""A held first frame: the base sees it clean at time 0, with every prompt, and its velocity is left out."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.sana import TextContext
from sanakit.models.video.held_frame import HeldFirstFrame
from tests.models.video.clips import TINY, apart, inputs, randomised


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomised(TINY).eval()


@torch.no_grad()
def test_the_other_frames_move_as_in_training_with_a_time_of_each_frame(model) -> None:
    given = inputs(TINY)
    first = torch.randn(1, 4, 1, 8, 6)
    held = HeldFirstFrame(model, first)
    context = held.prepare([row[real] for row, real in zip(given["text"], given["mask"], strict=True)])
    whole = given["latents"].clone()
    whole[:, :, :1] = first
    t = given["t"][:, None].repeat(1, 5)
    t[:, 0] = 0
    wanted = model(whole, t, given["text"], given["mask"])
    ours = held.velocity(given["latents"][:, :, 1:], given["t"], context)
    assert ours.shape == (2, 4, 4, 8, 6)
    assert apart(ours, wanted[:, :, 1:]) < 1e-5


@torch.no_grad()
def test_one_time_for_all_equals_that_time_for_each(model) -> None:
    given = inputs(TINY)
    held = HeldFirstFrame(model, torch.randn(1, 4, 1, 8, 6))
    context = held.prepare(list(given["text"]))
    behind = given["latents"][:, :, 1:]
    each = held.velocity(behind, torch.full((2,), 0.3), context)
    assert apart(held.velocity(behind, 0.3, context), each) < 1e-5
    frames = held.velocity(behind, torch.full((1, 4), 0.3), context)
    assert apart(frames, each) < 1e-5


@torch.no_grad()
def test_each_frame_has_its_own_time(model) -> None:
    first, behind = torch.randn(1, 4, 1, 8, 6), torch.randn(2, 4, 4, 8, 6)
    text = torch.randn(2, 7, 16)
    times = torch.tensor([[0.1, 0.5, 0.5, 0.9], [0.2, 0.3, 0.8, 0.4]])
    held = HeldFirstFrame(model, first)
    ours = held.velocity(behind, times, held.prepare(list(text)))
    whole = torch.cat([first.expand(2, -1, -1, -1, -1), behind], dim=2)
    wanted = model(whole, torch.cat([torch.zeros(2, 1), times], dim=1), text)
    assert apart(ours, wanted[:, :, 1:]) < 1e-5


@torch.no_grad()
def test_both_halves_of_guidance_see_the_frame(model) -> None:
    text = torch.randn(4, 7, 16)
    first, behind = torch.randn(1, 4, 1, 8, 6), torch.randn(2, 4, 4, 8, 6)
    held = HeldFirstFrame(model, first)
    parts = [held.prepare([row]) for row in text]
    both = held.velocity(behind, 0.6, TextContext.join(parts))
    for half in (0, 1):
        alone = held.velocity(behind, 0.6, TextContext.join(parts[2 * half : 2 * half + 2]))
        assert apart(both[2 * half : 2 * half + 2], alone) < 1e-5
    other = HeldFirstFrame(model, -first).velocity(behind, 0.6, TextContext.join(parts))
    assert all(apart(other[i], both[i]) > 0.01 for i in range(4))


def test_the_base_and_the_frame_stay_as_they_are(model) -> None:
    first = torch.randn(1, 4, 1, 8, 6)
    kept = first.clone()
    held = HeldFirstFrame(model, first)
    held.velocity(torch.randn(1, 4, 2, 8, 6), 0.5, held.prepare([torch.randn(3, 16)]))
    assert torch.equal(first, kept)
    assert (held.config, held.dtype, list(held.blocks)) == (model.config, model.dtype, list(model.blocks))
