"""A walk's tree of moments: branches bit for bit, states that are kept or drawn again, and its records."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError, SizeError
from sanakit.pipelines.world.actions import action_poses, parse_actions
from sanakit.pipelines.world.paths import read_path
from sanakit.pipelines.world.world import World
from sanakit.serve.engine import walk as walks
from sanakit.serve.engine.walk import actions_text
from sanakit.serve.engine.world_engine import WorldEngine
from tests.pipelines.world.tiny import AUTOENCODER, DEFAULTS, STREAMING, photo, save_world
from tests.serve.engine.walking import enter, go, recorded


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_two_branches_are_the_same_bits_whether_their_state_was_kept_or_is_drawn_again(
    world_engine: WorldEngine,
) -> None:
    walk = enter(world_engine)
    go(world_engine, walk, 0, "w-8")
    left = go(world_engine, walk, 1, "a-8")
    right = go(world_engine, walk, 1, "d-8")
    assert go(world_engine, walk, 1, "a-8") == left
    assert walk.kept == [1, 4]
    go(world_engine, walk, 0, "s-8")
    assert walk.kept == [4, 5], "the state of moment 1 is not kept any more"
    assert go(world_engine, walk, 1, "d-8") == right
    assert left != right
    assert [moment.before for moment in walk.moments] == [None, 0, 1, 1, 1, 0, 1]
    assert recorded(walk, 3) == recorded(walk, 6)
    assert recorded(walk, 2)[-8:] == left
    other = enter(world_engine)
    assert go(world_engine, other, 0, "w-8,d-8")[8:] == right


def test_several_states_are_drawn_again_in_their_order(world_engine: WorldEngine) -> None:
    walk = enter(world_engine)
    go(world_engine, walk, 0, "w-8,a-8,d-8")
    usual = go(world_engine, walk, 3, "w-8")
    walk._kept.clear()
    assert go(world_engine, walk, 3, "w-8") == usual
    assert walk.kept == [3, 5]


def test_another_seed_is_another_future_which_a_later_state_comes_from(world_engine: WorldEngine) -> None:
    walk = enter(world_engine)
    usual = go(world_engine, walk, 0, "w-8")
    other = go(world_engine, walk, 0, "w-8", seed=6)
    assert usual != other
    on = go(world_engine, walk, 2, "w-8")
    walk._kept.clear()
    assert go(world_engine, walk, 2, "w-8") == on, "the seed is used again where the state is drawn again"
    assert walk.actions(2) is None
    assert walk.actions(1) == "w-8"


@pytest.mark.filterwarnings("ignore:The image of 96x64 px is cut")
def test_the_recorded_path_draws_the_same_frames_again(tmp_path) -> None:
    causal = replace(AUTOENCODER, decoder_causal=True)
    defaults = {**DEFAULTS, "width": 64, "height": 64, "chunks": {"length": 2}}
    folder = str(save_world(tmp_path / "model", STREAMING, causal, defaults))
    engine = WorldEngine(folder, device="cpu", threads=1)
    engine.start()
    walk = enter(engine)
    poses = action_poses("wd-28")[13:]
    go(engine, walk, 0, "w-4,wd-12")
    go(engine, walk, 0, poses[:16])
    go(engine, walk, 1, "d-16")
    there = walk.path(2)
    assert torch.equal(there.poses, torch.cat([torch.eye(4, dtype=torch.float64)[None], poses]))
    frames = [np.stack([pixels(frame) for frame in recorded(walk, moment)]) for moment in (2, 3)]
    assert walk.actions(3) == "w-4,dw-12,d-16"
    (tmp_path / "path.json").write_text(there.text())
    (tmp_path / "keys.json").write_text(walk.path(3).text())
    engine.close()
    world = World.from_pretrained(folder, device="cpu")
    image, words = photo(96, 64), "a red apple"
    known = [read_path(tmp_path / name) for name in ("path.json", "keys.json")]
    drawn = [world(image, words, path=way, seed=5).frames for way in known]
    for known, walked in zip(drawn, frames, strict=True):
        apart = np.abs(known.astype(int) - walked.astype(int))
        assert apart.max() <= 1, "frames are decoded in other groups: equal to rounding"


@pytest.mark.parametrize(
    ("move", "error", "sentence"),
    [
        ("w-12", SettingsError, "takes 12 frames: make them 8, or a multiple of it up to 128"),
        ("w-136", SettingsError, "up to 128"),
        ("x-8", SettingsError, "unknown keys"),
        (torch.eye(4, dtype=torch.float64).expand(7, 4, 4), SettingsError, "takes 7 frames"),
        (torch.zeros(8, 4, 4, dtype=torch.float64), SettingsError, "is not a rotation"),
    ],
)
def test_a_move_is_checked_before_anything_is_drawn(world_engine, move, error, sentence) -> None:
    walk = enter(world_engine)
    with pytest.raises(error, match=sentence):
        walk.split(0, move)
    assert len(walk.moments) == 1


def test_moments_that_are_not_there_and_limits_are_told(world_engine, monkeypatch) -> None:
    walk = enter(world_engine)
    for moment in (1, -1):
        with pytest.raises(SettingsError, match=f"no moment {moment}: this walk has those from 0 to 0"):
            walk.split(moment, "w-8")
    walk.most_frames = 16
    with pytest.raises(SizeError, match="would have 17 frames, but this model has positions for 16"):
        walk.split(0, "w-16")
    monkeypatch.setattr(walks, "MOST_MOMENTS", 1)
    with pytest.raises(SettingsError, match="has 1 moments, and 1 are the most: enter again"):
        walk.split(0, "w-8")


def test_keys_are_written_as_they_are_read() -> None:
    for text in ("w-24", "dw-3,none-4,w-1"):
        assert actions_text(parse_actions(text)) == text
