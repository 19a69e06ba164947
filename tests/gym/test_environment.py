"""A world as an environment: Gymnasium's own checker, episodes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.utils.env_checker import check_env

from sanakit.errors import SettingsError
from sanakit.gym.environment import KEYS, WorldEnv, held_keys
from sanakit.pipelines.world.world import World
from tests.pipelines.world.tiny import AUTOENCODER, STREAMING, TRANSFORMER, photo, save_world

CALLED: dict[str, Any] = {"fov": 60.0, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    causal = replace(AUTOENCODER, decoder_causal=True)
    return World.from_pretrained(save_world(tmp_path_factory.mktemp("gym") / "model", STREAMING, causal))


@pytest.fixture
def make(world) -> Callable[..., WorldEnv]:
    return lambda **settings: WorldEnv(world, photo(64, 64), "a red apple", **{**CALLED, **settings})


@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_passes(make) -> None:
    check_env(make(render_mode="rgb_array"), skip_render_check=True)


def test_an_episode_is_what_moves_draw_and_is_cut_off(world, make) -> None:
    env = make(max_chunks=2, reward=lambda frames: frames[0, 0, 0, 0], render_mode="rgb_array")
    first, info = env.reset(seed=3)
    own = int(np.random.default_rng(3).integers(2**31))
    live = world.enter(photo(64, 64), "a red apple", seed=own, **CALLED)
    assert np.array_equal(first, live.frame)
    assert np.array_equal(info["pose"], np.eye(4))
    for number, held in enumerate(("wd", "")):
        frame, reward, ended, cut, info = env.step(held_keys(held))
        frames = live.move(f"{held or 'none'}-24")
        assert np.array_equal(info["frames"], frames)
        assert np.array_equal(frame, frames[-1])
        assert np.array_equal(env.render(), frames[-1])
        assert (reward, ended, cut) == (float(frames[0, 0, 0, 0]), False, number == 1)
        assert np.array_equal(info["pose"], live.snapshot().pose.numpy())
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(held_keys("w"))
    again, _ = env.reset()
    assert not np.array_equal(env.step(held_keys("wd"))[4]["frames"], frames)
    assert np.array_equal(again, first), "the image is the same, the future is not"


def test_an_episode_may_begin_with_another_image(make) -> None:
    env = make()
    first, _ = env.reset(seed=0)
    other, _ = env.reset(seed=0, options={"image": photo(64, 64).rotate(90), "prompt": "a fox"})
    assert not np.array_equal(first, other)
    assert np.array_equal(env.reset(seed=0)[0], first)
    with pytest.raises(SettingsError, match="weather is not an option of `reset`: use image or prompt"):
        env.reset(options={"weather": "rain"})


def test_actions_hold_the_keys_of_worlds() -> None:
    assert sorted(KEYS) == sorted("wasdijkl")
    assert [held_keys(key).argmax() for key in KEYS] == list(range(8))
    with pytest.raises(SettingsError, match="q, x are not keys"):
        held_keys("xwq")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_chunks": 0}, "max_chunks = 0"),
        ({"max_chunks": 342}, "from 1 to 341"),
        ({"render_mode": "human"}, 'must be "rgb_array" or None'),
        ({"seed": 3}, "pass it to `reset`"),
        ({"path": "w-24"}, "path is of a call for a known path: omit it"),
        ({"keys": "dancing"}, "'dancing' is not a dialect of keys"),
        ({"width": 65}, "nearest such size is 64x64"),
        ({"action": "w-24"}, "action is not an argument here"),
    ],
)
def test_what_is_refused_at_once(make, settings, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        make(**settings)


def test_whole_clips_are_not_acted_in(world, tmp_path) -> None:
    whole = World.from_pretrained(save_world(tmp_path / "whole", TRANSFORMER))
    with pytest.raises(SettingsError, match="load streaming weights"):
        WorldEnv(whole, photo(), **CALLED)
    env = WorldEnv(world, photo(64, 64), **CALLED)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(held_keys("w"))
    assert env.render() is None
