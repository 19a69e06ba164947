"""A judge of camera motion: what it learns of a painted wall, and angles between rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.errors import DataError
from sanakit.eval.networks.pose_judge import PoseJudge, rotation_degrees, train_pose_judge
from sanakit.eval.world_folder import inverted
from sanakit.pipelines.world.actions import TURNING, action_poses
from tests.eval.metrics.walls import seen
from tests.models.world.worlds import turn

PATHS = ("d-24", "a-24")


def clip(path: str, wall: int):
    """Frames and poses of a path that goes four times as fast as keys do."""
    poses = action_poses(path, TURNING)[::4]
    return seen(poses, wall), poses


def test_angles_between_rotations_are_exact() -> None:
    angles = torch.tensor([0.0, 10.0, 90.0, 175.0], dtype=torch.float64)
    turned = torch.stack([turn(float(angle)) for angle in angles.deg2rad()])
    start = turn(0.4, 0.2, -0.3)
    found = rotation_degrees(start.expand(4, 3, 3), start @ turned)
    assert torch.allclose(found, angles, atol=1e-5)


def test_it_tells_rotations_and_its_answer_does_not_depend_on_the_first_pose() -> None:
    torch.manual_seed(0)
    judge = PoseJudge(2.0)
    rotation, moved = judge(torch.randn(3, 3, 64, 64), torch.randn(3, 3, 64, 64))
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(3), atol=1e-5)
    assert moved.shape == (3, 3)
    frames, poses = clip("d-24", 0)
    start = action_poses("wj-20", TURNING)[-1]
    one, other = judge.errors(frames, poses), judge.errors(frames, start @ poses)
    assert one.degrees == pytest.approx(other.degrees, abs=1e-2)
    assert one.distance == pytest.approx(other.distance, rel=1e-3)


@pytest.mark.thorough
def test_it_learns_which_way_a_camera_turned_on_a_wall_that_it_has_not_seen() -> None:
    judge = train_pose_judge([clip(path, wall) for path in PATHS for wall in range(6)], steps=40)
    unseen = [clip(path, 9) for path in PATHS]
    right = sum(judge.errors(frames, poses).degrees for frames, poses in unseen)
    wrong = sum(judge.errors(frames, inverted(poses)).degrees for frames, poses in unseen)
    assert right < 0.75 * wrong


def test_a_seed_makes_the_same_judge() -> None:
    one, same, other = (train_pose_judge([clip("d-24", 0)], steps=1, seed=seed) for seed in (0, 0, 1))
    weights = [judge.state_dict()["tell.2.weight"] for judge in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_single_frames_teach_nothing() -> None:
    with pytest.raises(DataError, match="clips of two frames or more"):
        train_pose_judge([(np.zeros((1, 64, 64, 3), np.uint8), torch.eye(4)[None])])
    with pytest.raises(DataError, match="two frames"):
        train_pose_judge([])
