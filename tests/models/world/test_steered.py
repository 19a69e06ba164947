"""A world model bound to a path: what it computes, how often it prepares rays, and what it keeps of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.sana_wm import SanaWM
from sanakit.models.world.steered import SteeredWorld
from tests.models.world.worlds import GRID, TINY, randomised, seen

STREAM = replace(TINY, variant="streaming")
LONG = (7, 2, 3)


@pytest.fixture
def model() -> SanaWM:
    torch.manual_seed(0)
    return randomised(STREAM)


def test_velocities_are_those_of_the_base_with_the_same_cameras(model) -> None:
    path, latents = seen(), torch.randn(1, 8, *GRID)
    context = model.prepare([torch.randn(4, 16)])
    cameras = model.prepare_cameras(path.cameras[None], path.plucker[None], GRID[1:])
    wanted = model.velocity(latents, 0.5, context, cameras=cameras)
    assert torch.equal(SteeredWorld(model, path).velocity(latents, 0.5, context), wanted)
    assert not torch.equal(model.velocity(latents, 0.5, context), wanted)


def test_chunks_take_their_own_part_of_the_path(model) -> None:
    path, latents = seen(LONG), torch.randn(1, 8, *LONG)
    context = model.prepare([torch.randn(4, 16)])
    steered = SteeredWorld(model, path)
    state = steered.extend(None, latents[:, :, :4], context)
    ours = steered.velocity(latents[:, :, 4:], 0.5, context, state=state)
    part = CameraInputs(path.cameras[4:], path.plucker[:, 4:])
    later = SteeredWorld(model, part, first=4)
    assert torch.equal(later.velocity(latents[:, :, 4:], 0.5, context, state=state), ours)
    cameras = model.prepare_cameras(part.cameras[None], part.plucker[None], LONG[1:])
    wanted = model.velocity(latents[:, :, 4:], 0.5, context, state=state, cameras=cameras)
    assert torch.equal(ours, wanted)


def test_rays_are_prepared_once_for_all_steps_of_a_chunk(model, monkeypatch) -> None:
    calls, prepare = [], SanaWM.prepare_cameras
    monkeypatch.setattr(
        SanaWM, "prepare_cameras", lambda self, *a: calls.append(a[0].shape[1]) or prepare(self, *a)
    )
    path, latents = seen(LONG), torch.randn(1, 8, *LONG)
    context, steered, state = model.prepare([torch.randn(4, 16)]), SteeredWorld(model, path), None
    for chunk in latents.split([4, 3], dim=2):
        for t in (1.0, 0.5):
            steered.velocity(chunk, t, context, state=state)
        state = steered.extend(state, chunk, context)
    assert calls == [4, 3]


def test_the_first_chunks_of_a_clip_are_seen_alone(model) -> None:
    teacher = randomised(replace(TINY, variant="chunk_causal"))
    path, latents = seen(LONG), torch.randn(1, 8, *LONG)
    context, steered = teacher.prepare([torch.randn(4, 16)]), SteeredWorld(teacher, path, chunks=(3, 2, 2))
    cameras = teacher.prepare_cameras(path.cameras[None, :5], path.plucker[None, :, :5], LONG[1:])
    wanted = teacher.velocity(latents[:, :, :5], 0.5, context, cameras=cameras, chunks=(3, 2))
    assert torch.equal(steered.velocity(latents[:, :, :5], 0.5, context), wanted)
    with pytest.raises(SettingsError, match=r"chunks are \[3, 2\], but the clip has 4 frames"):
        steered.velocity(latents[:, :, :4], 0.5, context)


def test_frames_without_cameras_are_refused(model) -> None:
    path, context = seen(), model.prepare([torch.randn(4, 16)])
    with pytest.raises(SettingsError, match="latent frames 0 to 3, not for 0 to 4"):
        SteeredWorld(model, path).velocity(torch.randn(1, 8, 5, 2, 3), 0.5, context)
    with pytest.raises(SettingsError, match="latent frames 4 to 7, not for 0 to 2"):
        SteeredWorld(model, path, first=4).velocity(torch.randn(1, 8, 3, 2, 3), 0.5, context)


def test_the_second_of_two_pasts_is_that_of_the_prompt_alone(model) -> None:
    path, latents = seen(LONG), torch.randn(1, 8, *LONG)
    words = [torch.randn(4, 16), torch.randn(3, 16)]
    steered = SteeredWorld(model, path)
    both = steered.extend(None, latents[:, :, :4], model.prepare(words)).second()
    alone = steered.extend(None, latents[:, :, :4], model.prepare(words[1:]))
    assert both.batch == alone.batch == 1
    context, chunk = model.prepare(words[1:]), latents[:, :, 4:]
    ours = steered.velocity(chunk, 0.5, context, state=both)
    assert torch.allclose(ours, steered.velocity(chunk, 0.5, context, state=alone), rtol=1e-4, atol=1e-4)
