"""World models put to the test: one that obeys, ones that do not, and a tiny one of random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.eval.world_measures import drawer, key_signs, path_likeness, revisit
from sanakit.pipelines.world.actions import STRAFING, action_poses
from sanakit.pipelines.world.world import World
from tests.eval.metrics.walls import backwards, truth
from tests.pipelines.world.tiny import photo, save_world


def test_a_mirrored_axis_shows_in_the_signs_of_its_keys_alone() -> None:
    assert all(sign.obeyed for sign in key_signs(truth, 10).values())
    wrong = {key for key, sign in key_signs(backwards, 10).items() if not sign.obeyed}
    assert wrong == set("adjl")


def test_what_obeys_is_nearer_to_the_truth_than_all_controls() -> None:
    poses = action_poses("d-6", STRAFING)
    wanted = truth(poses)
    found = path_likeness(truth, "d-6", "a-6", wanted)
    assert set(found) == {"own", "other-path", "no-camera", "first-frame"}
    assert found["own"] > max(value for name, value in found.items() if name != "own")
    assert found["no-camera"] == pytest.approx(found["first-frame"])
    still = path_likeness(lambda path, steered: truth(path, False), "d-6", "a-6", wanted, unsteered=False)
    assert still["own"] == pytest.approx(still["first-frame"])
    assert "no-camera" not in still


def test_a_path_there_and_back_is_drawn_and_compared() -> None:
    assert revisit(truth, action_poses("d-4", STRAFING)) == (float("inf"), 4)


def test_a_model_is_drawn_with_and_without_its_cameras(tmp_path) -> None:
    world = World.from_pretrained(save_world(tmp_path / "model"), device="cpu")
    called = {"fov": 60, "steps": 1, "guidance": 1}
    draw = drawer(world, photo(), seed=3, **called)
    steered = draw("wl-8", True)
    assert np.array_equal(steered, world(photo(), path="wl-8", seed=3, **called).frames)
    plain = draw("wl-8", False)
    assert plain.shape == steered.shape == (9, 64, 96, 3)
    assert not np.array_equal(plain, steered)
    assert np.array_equal(plain, draw(torch.eye(4, dtype=torch.float64).repeat(9, 1, 1), False)), "no path"
    for settings in ({}, {"seed": 3, "path": "w-8"}):
        with pytest.raises(SettingsError, match="pass a seed, and no path"):
            drawer(world, photo(), **settings)  # pyright: ignore[reportArgumentType]
