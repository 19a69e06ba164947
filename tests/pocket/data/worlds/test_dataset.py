"""The data set of camera paths: the same for a seed, whole or not at all, with exact poses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sanakit.errors import DataError, SettingsError
from sanakit.pocket.data.worlds import dataset
from sanakit.pocket.data.worlds.dataset import build_worlds, open_worlds, thing_split
from sanakit.pocket.data.worlds.made import MADE
from sanakit.pocket.data.worlds.render import render
from sanakit.pocket.data.worlds.scenes import MARGIN, make_scene
from sanakit.pocket.data.worlds.trajectories import HELD_OUT
from sanakit.seeds import numpy_generator
from tests.pocket.data.worlds.toy import build_toy_worlds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_toy_worlds(tmp_path_factory.mktemp("worlds") / "toy")


def test_the_same_seed_gives_the_same_clips(folder: Path, tmp_path: Path) -> None:
    one = open_worlds(folder)
    again = open_worlds(build_toy_worlds(tmp_path / "again"))
    other = open_worlds(build_toy_worlds(tmp_path / "other", seed=1))
    assert np.array_equal(one.frames, again.frames)
    assert one.rows == again.rows
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert one.rows != other.rows


def test_frames_are_what_their_poses_see(folder: Path) -> None:
    """Rendered again from the files' poses and lens, with the scene that the seed gives."""
    worlds = open_worlds(folder)
    random = numpy_generator(0, dataset.RANDOM, worlds.rows[0].scene)
    _, name, mesh = dataset._main_thing(random, [])
    scene = make_scene(random, name, mesh)
    again = render(scene.room, scene.mesh, worlds.poses[0], worlds.lenses[0], worlds.side)
    assert np.array_equal(again, worlds.frames[0])
    path = worlds.path(0)
    assert path.poses.dtype == torch.float64
    assert (path.width, path.height) == (worlds.side, worlds.side)
    assert path.intrinsics.shape == (worlds.length, 4)
    limits = scene.room.limits
    eyes = worlds.poses[0][:, :3, 3]
    assert (eyes > limits[0] + MARGIN).all()
    assert (eyes < limits[1] - MARGIN).all()
    apart = np.hypot(eyes[:, None, 0] - scene.solid[:, 0], eyes[:, None, 2] - scene.solid[:, 1])
    assert (apart > scene.solid[:, 2] + MARGIN).all()


def test_held_out_things_and_paths_are_never_trained_on(folder: Path) -> None:
    rows = open_worlds(folder).rows
    assert {row.split for row in rows} == {"train", "thing", "path"}
    for row in rows:
        assert (row.split == "path") == (row.family == HELD_OUT)
        assert (row.split == "thing") == (thing_split(row.thing) == "thing")
    assert {thing_split(f"made {name}") for name in MADE} == {"train", "thing"}


def test_a_clip_goes_there_and_back(folder: Path) -> None:
    worlds = open_worlds(folder)
    length = worlds.length
    taken = worlds.take(1, length - 2, 1, 4)
    for frame, number in zip(taken, (length - 2, length - 1, length - 2, length - 3), strict=True):
        assert np.array_equal(frame, worlds.frames[1, number])
    assert worlds.lengths[1] == 2 * length - 2


def test_what_cannot_be_built_or_opened_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="64 or 96"):
        build_worlds(tmp_path / "new", side=32, made=True)
    with pytest.raises(SettingsError, match="too few"):
        build_worlds(tmp_path / "new", length=1, made=True)
    with pytest.raises(DataError, match="was built with side 16, scenes"):
        build_worlds(folder, made=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DataError, match="in use"):
        build_worlds(tmp_path / "other", made=True)
    with pytest.raises(DataError, match="pocket-worlds"):
        open_worlds(tmp_path / "nothing")
    damaged = build_toy_worlds(tmp_path / "damaged")
    np.save(damaged / dataset.POSES, np.zeros((1, 2, 4, 4)))
    with pytest.raises(DataError, match="damaged"):
        open_worlds(damaged)
    told = json.loads((damaged / dataset.SOURCES).read_text())
    (damaged / dataset.SOURCES).write_text(json.dumps(told | {"format": 0}))
    with pytest.raises(DataError, match="format 0"):
        open_worlds(damaged)
