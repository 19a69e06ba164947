"""Cameras: projections of points, invariance under moves of the world, and diffusers' own numbers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_sana_wm import _process_camera_conditions_ucpe
from diffusers.pipelines.sana_wm.cam_utils import prepare_camera

from sanakit.errors import SettingsError
from sanakit.models.world.camera import (
    camera_inputs,
    check_cameras,
    inverse_pose,
    plucker_rays,
    ray_frames,
    relative_poses,
)
from tests.models.world.worlds import GRID, PIXELS, STRIDE, apart, intrinsics, poses, seen, turn

FRAMES = (GRID[0] - 1) * STRIDE + 1
SIZE = (GRID[1] * PIXELS, GRID[2] * PIXELS)


def moved(path: torch.Tensor) -> torch.Tensor:
    """The same path in a world that was turned and shifted."""
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3], move[:3, 3] = turn(1.1, -0.4, 0.8), torch.tensor([5.0, -2.0, 0.7], dtype=torch.float64)
    return move @ path


@pytest.mark.parametrize("each", [False, True], ids=["one camera", "a camera for each frame"])
def test_inputs_are_those_of_diffusers(each):
    path, camera = moved(poses(FRAMES)), intrinsics()
    if each:
        camera = camera * torch.linspace(1, 1.5, FRAMES)[:, None]
    ours = camera_inputs(path, camera, size=SIZE, compression=(STRIDE, PIXELS))
    theirs = prepare_camera(
        path.numpy(),
        camera.expand(FRAMES, 4).numpy(),
        target_size=SIZE,
        vae_stride=(STRIDE, PIXELS, PIXELS),
    )
    assert ours.cameras.shape == (GRID[0], 20)
    assert ours.plucker.shape == (6 * STRIDE, *GRID)
    assert ours.cameras.dtype == ours.plucker.dtype == torch.float32
    assert apart(ours.cameras, theirs["raymap"]) < 1e-6
    assert apart(ours.plucker, theirs["chunk_plucker"]) < 2e-6


def test_a_world_that_is_turned_and_shifted_gives_the_same_inputs():
    camera = intrinsics()
    here, there = (
        camera_inputs(path, camera, size=SIZE, compression=(STRIDE, PIXELS))
        for path in (poses(FRAMES), moved(poses(FRAMES)))
    )
    assert apart(there.cameras, here.cameras) < 1e-6
    assert apart(there.plucker, here.plucker) < 3e-6


def test_the_first_pose_becomes_the_identity_to_the_bit():
    assert torch.equal(relative_poses(moved(poses(5)).float())[0], torch.eye(4))
    assert torch.equal(seen().cameras[0, :16].view(4, 4), torch.eye(4))


def test_an_inverse_undoes_a_pose():
    path = moved(poses(5))
    assert (inverse_pose(path) @ path - torch.eye(4)).abs().max() < 1e-12


def test_a_point_lies_on_the_ray_of_the_cell_that_it_projects_to():
    """A Plücker moment is that of every point of the ray, not of its origin alone."""
    path, camera = moved(poses(3)), torch.tensor([[2.5, 2.1, 1.2, 0.4]], dtype=torch.float64).expand(3, 4)
    rays = plucker_rays(path, camera, 2, 3)
    for frame, row, column in ((0, 0, 0), (1, 1, 2), (2, 0, 1)):
        fx, fy, cx, cy = camera[frame].tolist()
        depth = 3.7
        local = [(column - cx) / fx * depth, (row - cy) / fy * depth, depth, 1.0]
        point = (path[frame] @ torch.tensor(local, dtype=torch.float64))[:3]
        direction, moment = rays[frame, :3, row, column], rays[frame, 3:, row, column]
        assert abs(direction.norm() - 1) < 1e-12
        assert (torch.linalg.cross(point, direction) - moment).abs().max() < 1e-12
        assert direction @ (point - path[frame, :3, 3]) > 0


def test_coordinates_of_a_latent_frame_are_those_of_its_frames_of_pixels():
    """The first latent frame takes the first eight frames; each later one those up to its own."""
    camera = intrinsics()
    plucker = camera_inputs(poses(FRAMES), camera, size=SIZE, compression=(STRIDE, PIXELS)).plucker
    rays = plucker_rays(relative_poses(poses(FRAMES).float()), (camera / PIXELS).expand(FRAMES, 4), *GRID[1:])
    for latent in range(GRID[0]):
        first = max(0, STRIDE * (latent - 1) + 1)
        for place in range(STRIDE):
            own = plucker[6 * place : 6 * place + 6, latent]
            assert apart(own, rays[first + place]) < 1e-6


def test_one_pose_is_a_clip_whose_coordinates_repeat():
    still = camera_inputs(poses(1), intrinsics(), size=SIZE, compression=(STRIDE, PIXELS))
    assert still.plucker.shape == (6 * STRIDE, 1, *GRID[1:])
    assert torch.equal(still.plucker, still.plucker[:6].repeat(STRIDE, 1, 1, 1))


def test_a_ray_sees_its_own_points_straight_ahead():
    cameras = torch.stack([seen().cameras, seen(start=0.4).cameras]).double()
    into = ray_frames(cameras, *GRID[1:]).unflatten(1, GRID)  # B T H W 4 4
    for sample, frame, row, column in ((0, 0, 0, 0), (1, 3, 1, 2), (0, 2, 1, 0)):
        pose = cameras[sample, frame, :16].view(4, 4)
        fx, fy, cx, cy = cameras[sample, frame, 16:].tolist()
        local = torch.tensor([(column - cx) / fx, (row - cy) / fy, 1.0]).double() * 2.0
        point = pose @ torch.cat([local, torch.ones(1)])
        matrix = into[sample, frame, row, column]
        found = matrix @ point
        assert (found - torch.tensor([0, 0, local.norm(), 1])).abs().max() < 1e-6  # float32's cameras
        axes = matrix[:3, :3]
        assert (axes @ axes.T - torch.eye(3)).abs().max() < 1e-6
        assert torch.linalg.det(axes) > 0
        assert abs(axes[0] @ pose[:3, 1]) < 1e-6  # across the down axis
        assert axes[1] @ pose[:3, 1] > 0  # and the ray's own goes down, too


def test_frames_of_rays_are_those_of_diffusers():
    cameras = torch.stack([seen().cameras, seen(start=0.4).cameras])
    theirs, _ = _process_camera_conditions_ucpe(cameras, 2, GRID, (1, 1, 1))
    assert apart(ray_frames(cameras, *GRID[1:]), theirs.flatten(1, 3)) < 2e-6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"poses": poses(24)}, "has 24 poses; a clip has a multiple of 8 frames, plus 1: pass 25"),
        ({"poses": torch.eye(4)}, "one 4x4 matrix for each frame"),
        ({"poses": poses(0)}, "one 4x4 matrix for each frame"),
        ({"intrinsics": torch.ones(3, 4)}, "once, or for each of 25 frames"),
        ({"size": (64, 97)}, "97x64 pixels: use multiples of 32"),
        ({"poses": poses(25) * torch.nan}, "not finite"),
        ({"poses": poses(1) * torch.nan}, "not finite"),
        ({"poses": poses(4)}, "pass 1 of them"),
        ({"intrinsics": torch.tensor([0.0, 1, 1, 1])}, "not above 0"),
    ],
)
def test_what_is_not_a_path_of_a_clip_is_refused(change, said):
    given = {"poses": poses(25), "intrinsics": intrinsics(), "size": SIZE, "compression": (STRIDE, PIXELS)}
    with pytest.raises(SettingsError, match=said):
        camera_inputs(**given | change)


def test_cameras_without_focal_lengths_are_refused():
    with pytest.raises(SettingsError, match="cameras have 16 numbers"):
        check_cameras(torch.zeros(1, 4, 16))
