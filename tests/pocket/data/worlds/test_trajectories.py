"""Families of camera paths: each does what its name says, within the speeds of held keys."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.pipelines.world.actions import STRAFING, TURNING, action_poses
from sanakit.pocket.data.worlds.trajectories import FAMILIES, HELD_OUT, SPEED, TURN, Start, look_at

START = Start(np.array([0.5, -1.2, -2.0]), np.array([0.1, -0.6, 0.3]), 13)


def path(family: str, seed: int = 0) -> np.ndarray:
    return FAMILIES[family](START, np.random.default_rng(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paths_begin_at_the_start_and_turn_without_scaling(family: str, seed: int) -> None:
    poses = path(family, seed)
    assert poses.shape == (13, 4, 4)
    np.testing.assert_allclose(poses[0], look_at(START.eye, START.target), atol=1e-12)
    turned = poses[:, :3, :3]
    np.testing.assert_allclose(
        turned @ turned.swapaxes(1, 2), np.broadcast_to(np.eye(3), turned.shape), atol=1e-9
    )
    assert (np.linalg.det(turned) > 0).all()
    assert (poses[:, 3] == [0, 0, 0, 1]).all()


def test_look_at_has_opencv_axes() -> None:
    """Looking along z of the room from the front: x to the right, y down, z forward."""
    np.testing.assert_allclose(
        look_at(np.array([0, -1.0, -2]), np.array([0, -1.0, 5]))[:3, :3], np.eye(3), atol=1e-12
    )
    down = look_at(np.array([0, -2.0, -2]), np.array([0, 0.0, 0]))
    assert down[1, 2] > 0  # y points to the floor


def test_an_orbit_keeps_its_distance_and_its_target_in_the_middle() -> None:
    poses = path("orbit")
    away = START.target - poses[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), np.linalg.norm(away[0]), atol=1e-9)
    seen = np.einsum("fij,fi->fj", poses[:, :3, :3], away)
    np.testing.assert_allclose(seen[:, :2], 0, atol=1e-9)
    flat = np.arctan2(away[:, 0], away[:, 2])
    step = np.abs(np.degrees(np.diff(np.unwrap(flat))))
    assert TURN[0] <= step.min() <= step.max() <= TURN[1]


@pytest.mark.parametrize(("family", "axes"), [("dolly", "z"), ("strafe", "x"), (HELD_OUT, "xz")])
def test_straight_paths_go_along_the_camera_at_even_speed(family: str, axes: str) -> None:
    poses = path(family)
    assert (poses[:, :3, :3] == poses[0, :3, :3]).all()
    steps = np.diff(poses[:, :3, 3], axis=0)
    np.testing.assert_allclose(steps, steps[:1].repeat(12, 0), atol=1e-12)
    assert abs(steps[0, 1]) < 1e-12  # along the floor
    ahead = poses[0, :3, 2] * [1, 0, 1]
    across = poses[0, :3, 0] * [1, 0, 1]
    moved = {"z": steps[0] @ ahead / np.linalg.norm(ahead), "x": steps[0] @ across / np.linalg.norm(across)}
    for axis, speed in moved.items():
        limits = SPEED if axis in axes else (0.0, 1e-9)
        assert limits[0] <= abs(speed) <= limits[1]


def test_a_turn_stays_on_the_spot_and_a_crane_goes_up_or_down() -> None:
    turned, risen = path("turn"), path("crane")
    assert (turned[:, :3, 3] == START.eye).all()
    assert not np.allclose(turned[0], turned[-1])
    assert (risen[:, [0, 2], 3] == START.eye[[0, 2]]).all()
    assert len(set(risen[:, 1, 3])) == 13


@pytest.mark.parametrize("seed", range(4))
def test_out_and_back_comes_back_on_the_same_way(seed: int) -> None:
    poses = path("out-and-back", seed)
    assert (poses == poses[::-1]).all()
    assert not np.allclose(poses[0], poses[6])


def test_keys_are_those_of_the_walker() -> None:
    first = look_at(START.eye, START.target)
    relative = np.linalg.inv(first) @ path("keys", 1)
    step = np.linalg.norm(np.diff(relative[:, :3, 3], axis=0), axis=1).max()
    assert step <= STRAFING.speed + 1e-9
    known = [action_poses(f"{key}-12", said).numpy() for key in "wsadjlik" for said in (STRAFING, TURNING)]
    every = [np.linalg.inv(first) @ path("keys", seed) for seed in range(60)]
    assert any(np.allclose(one, other, atol=1e-9) for one in every for other in known)
