"""What a walk begins with is checked by the model's configuration, before any weights are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sanakit.errors import SettingsError, SizeError, StoppedError
from sanakit.serve.engine.walk import WalkChunk
from sanakit.serve.engine.walk_requests import ChunkTicket
from sanakit.serve.engine.world_engine import WorldEngine, split_worlds
from tests.pipelines.world.tiny import STREAMING, photo, save_world
from tests.serve.engine.walking import enter


@pytest.fixture(scope="module")
def unstarted(walking_folder) -> WorldEngine:
    return WorldEngine(str(walking_folder), device="cpu")


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"fov": 10}, SettingsError, "angle of view must be from 25 to 120"),
        ({"width": 50, "height": 64}, SizeError, "50"),
        ({"keys": "wasd"}, SettingsError, "is not a dialect of keys"),
        ({"image_format": "GIF"}, SettingsError, "Frames are sent as JPEG or PNG, not as 'GIF'"),
        ({"fov": 60, "intrinsics": [1, 1, 1, 1]}, SettingsError, "cannot be combined"),
        ({"seed": -1}, SettingsError, "seed"),
    ],
)
def test_a_wrong_setting_is_told_without_weights(unstarted, settings, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        unstarted.check(photo(), **settings)


def test_a_random_seed_is_chosen_once_and_told(unstarted) -> None:
    request = unstarted.check(photo(), fov=60)
    assert request.settings["seed"] == request.checked.clip.sampling.metadata[0]["seed"]
    assert unstarted.check(photo(), fov=60).settings["seed"] != request.settings["seed"]


def test_whole_clips_and_names_that_are_taken_are_refused(walking_folder, tmp_path) -> None:
    with pytest.raises(SettingsError, match="Two models are named 'tiny-world'"):
        WorldEngine(str(walking_folder), taken=["tiny-world"])
    ahead = save_world(tmp_path / "ahead", STREAMING)
    whole = save_world(tmp_path / "whole", replace(STREAMING, variant="bidirectional"))
    for folder in (whole, ahead):
        with pytest.raises(SettingsError, match="draws whole clips, in which nobody can walk"):
            WorldEngine(str(folder))


def test_a_server_has_one_model_of_worlds(walking_folder, video_folder) -> None:
    world, clips = str(walking_folder), str(video_folder)
    assert split_worlds(["pocket", world, clips]) == (["pocket", clips], world)
    assert split_worlds(["pocket"]) == (["pocket"], None)
    with pytest.raises(SettingsError, match="a server has one, so name one"):
        split_worlds([world, world])


def test_a_cancelled_chunk_wakes_the_engine_and_is_not_drawn(world_engine: WorldEngine) -> None:
    walk, woken = enter(world_engine), []
    ticket = ChunkTicket(walk, WalkChunk(actions="w-8"), 0, lambda: woken.append(1), None, None)
    ticket.cancel()
    assert woken == [1]
    assert ticket.stopped
    told: Any = world_engine.draw(walk, WalkChunk(actions="w-8"), 0)
    world_engine.end(walk)
    with pytest.raises(StoppedError):
        told.result(60)
    assert len(walk.moments) == 1
