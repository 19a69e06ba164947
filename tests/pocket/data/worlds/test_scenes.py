"""Scenes: things do not stand in each other, and paths keep away from all of them."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.data.worlds.made import make_thing
from sanakit.pocket.data.worlds.scenes import MAIN_REACH, MARGIN, make_path, make_scene
from sanakit.pocket.data.worlds.trajectories import FAMILIES


@pytest.mark.parametrize("seed", range(4))
def test_things_stand_apart_inside_the_room(seed: int) -> None:
    random = np.random.default_rng(seed)
    scene = make_scene(random, *make_thing(random, "chair"))
    x, z, radius = scene.solid.T
    assert MAIN_REACH[0] - 1e-6 <= radius[0] <= MAIN_REACH[1] + 1e-6
    least, most = scene.mesh.bounds
    limits = scene.room.limits
    assert (least[[0, 2]] > limits[0, [0, 2]]).all()
    assert (most[[0, 2]] < limits[1, [0, 2]]).all()
    apart = np.hypot(x[:, None] - x, z[:, None] - z) + np.eye(len(x)) * 99
    assert (apart > radius[:, None] + radius).all()
    assert len(scene.things) == len(scene.solid) - 1
    captions = scene.captions()
    assert captions[0].startswith(captions[2])
    assert scene.room.walls in captions[0]
    assert all(name in captions[-1] for name in scene.things)


def test_paths_keep_away_from_walls_and_things_or_there_is_none() -> None:
    random = np.random.default_rng(1)
    scene = make_scene(random, *make_thing(random, "lamp"))
    found = [make_path(scene, family, 9, random) for family in FAMILIES]
    assert any(path is not None for path in found)
    for path in found:
        if path is not None:
            eyes = path[:, :3, 3]
            assert (eyes > scene.room.limits[0] + MARGIN).all()
            assert (eyes < scene.room.limits[1] - MARGIN).all()
            away = np.hypot(eyes[:, None, 0] - scene.solid[:, 0], eyes[:, None, 2] - scene.solid[:, 1])
            assert (away > scene.solid[:, 2] + MARGIN).all()
    assert make_path(scene, "dolly", 4000, random) is None  # no room is as long as that
