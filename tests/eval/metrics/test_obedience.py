"""Measures of obedience on cameras before a painted wall, where the true answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.eval.metrics.obedience import SIGNS, image_motion, likeness_to_truth, revisit_psnr
from sanakit.pipelines.world.actions import STRAFING, action_poses
from tests.eval.metrics.walls import DISTANCE, FOCAL, seen, truth


def moved(right: float = 0.0, down: float = 0.0, ahead: float = 0.0) -> np.ndarray:
    """The wall before and after a step, so many units each way."""
    pose = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    pose[1, :3, 3] = torch.tensor([right, down, ahead])
    return seen(pose)


@pytest.mark.parametrize("pixels", [-9, 4, 12])
def test_a_step_aside_moves_the_image_the_other_way_by_its_own_pixels(pixels) -> None:
    motion = image_motion(*moved(right=pixels * DISTANCE / FOCAL))
    assert (motion.right, motion.down, motion.growth) == (-pixels, 0, 1.0)
    motion = image_motion(*moved(down=pixels * DISTANCE / FOCAL))
    assert (motion.right, motion.down, motion.growth) == (0, -pixels, 1.0)


@pytest.mark.parametrize("growth", [0.8, 1.1, 1.3])
def test_a_step_ahead_enlarges_the_image_by_its_share_of_the_way(growth) -> None:
    motion = image_motion(*moved(ahead=DISTANCE * (1 - 1 / growth)))
    assert motion.growth == pytest.approx(growth, rel=0.03)
    assert abs(motion.right) <= 1
    assert abs(motion.down) <= 1
    assert motion.likeness > 0.95


@pytest.mark.parametrize("key", SIGNS)
def test_every_key_has_its_sign_and_not_its_opposite(key) -> None:
    clip = truth(f"{key}-10")
    motion = image_motion(clip[0], clip[-1])
    opposite = {"w": "s", "s": "w", "a": "d", "d": "a", "i": "k", "k": "i", "j": "l", "l": "j"}[key]
    assert motion.obeys(key)
    assert not motion.obeys(opposite)


def test_what_does_not_move_obeys_no_key() -> None:
    clip = truth("none-1")
    assert not any(image_motion(*clip).obeys(key) for key in SIGNS)
    blank = np.full_like(clip, 128)
    assert not any(image_motion(*blank).obeys(key) for key in SIGNS)
    with pytest.raises(SettingsError, match="use one size"):
        image_motion(clip[0], clip[0, 1:])


def test_a_way_back_is_compared_with_the_way_there() -> None:
    poses = action_poses("d-6", STRAFING)
    way = torch.cat([poses, poses.flip(0)[1:]])
    frames = seen(way)
    assert revisit_psnr(frames, way) == (float("inf"), 6)
    forgot = frames.copy()
    forgot[7:] = np.clip(frames[7:].astype(int) + 51, 0, 255)  # a fifth of the range
    level, count = revisit_psnr(np.minimum(forgot, 255).astype(np.uint8), way)
    assert count == 6
    assert level == pytest.approx(20 * np.log10(5), abs=1.5)
    still = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    with pytest.raises(SettingsError, match="does not come back"):
        revisit_psnr(seen(still), still)
    with pytest.raises(SettingsError, match="13 poses"):
        revisit_psnr(frames[:4], way)


def test_likeness_stands_beside_its_controls() -> None:
    wanted, other = truth("d-6"), truth("a-6")
    found = likeness_to_truth(wanted, wanted, {"other-path": other})
    assert found["own"] == [float("inf")] * 6
    assert set(found) == {"own", "other-path", "first-frame"}
    assert found["first-frame"][0] > found["first-frame"][-1], "the camera goes away from the first frame"
    assert found["other-path"][-1] < found["first-frame"][-1]
    with pytest.raises(SettingsError, match="other-path has the shape"):
        likeness_to_truth(wanted, wanted, {"other-path": other[1:]})
