"""A served world as an environment: the same frames as here, bit for bit; errors are the server's words."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("fastapi")

import gymnasium
import uvicorn

from sanakit.errors import SanaError, SettingsError
from sanakit.gym import remote
from sanakit.gym.environment import WorldEnv, held_keys
from sanakit.gym.remote import RemoteWorldEnv
from sanakit.pipelines.world.world import World
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.app import create_app
from sanakit.serve.jobs.database import Database
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import KeyStore
from sanakit.serve.jobs.storage import ImageStore
from tests.pipelines.world.tiny import AUTOENCODER, DEFAULTS, STREAMING, photo, save_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    causal = replace(AUTOENCODER, decoder_causal=True)
    defaults = {**DEFAULTS, "width": 64, "height": 64, "chunks": {"length": 1}}
    return save_world(tmp_path_factory.mktemp("remote") / "model", STREAMING, causal, defaults)


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that listens on a free port of this machine, with one walk at a time."""
    place = tmp_path_factory.mktemp("server")
    database = Database(place / "jobs.sqlite")
    engine, worlds = Engine([], device="cpu"), WorldEngine(str(folder), device="cpu", threads=1, max_walks=1)
    worlds.start()
    stores = {"jobs": JobStore(database), "keys": KeyStore(database), "store": ImageStore(str(place))}
    app = create_app(engine, worlds=worlds, **stores)  # pyright: ignore[reportArgumentType]
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    worlds.close()
    database.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    photo(64, 64).save(tmp_path / "first.png")
    return tmp_path / "first.png"


def test_an_episode_is_the_one_that_is_drawn_here(address: str, folder: Path, image: Path) -> None:
    far = RemoteWorldEnv(
        address,
        image,
        "a red apple",
        fov=60,
        max_chunks=2,
        reward=lambda frames: frames[0, 0, 0, 0],
        render_mode="rgb_array",
    )
    near = WorldEnv(
        World.from_pretrained(folder, device="cpu"), photo(64, 64), "a red apple", fov=60.0, max_chunks=2
    )
    assert far.observation_space == near.observation_space
    assert far.metadata["render_fps"] == near.metadata["render_fps"]
    frames = [env.reset(seed=3)[0] for env in (far, near)]
    assert np.array_equal(*frames)
    for number, held in enumerate(("wd", "")):
        there, here = far.step(held_keys(held)), near.step(held_keys(held))
        assert np.array_equal(there[4]["frames"], here[4]["frames"])
        assert np.array_equal(there[4]["pose"], here[4]["pose"])
        assert np.array_equal(there[0], far.render())
        assert there[1:4] == (float(there[4]["frames"][0, 0, 0, 0]), False, number == 1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        far.step(held_keys("w"))
    again = far.reset(seed=3)[0]
    assert np.array_equal(again, frames[0])
    far.close()
    assert far.observation_space.contains(again)


def test_the_servers_words_are_the_errors(address: str, image: Path) -> None:
    with pytest.raises(SettingsError, match="angle of view must be from 25 to 120"):
        RemoteWorldEnv(address, image, fov=10)
    with pytest.raises(SettingsError, match="Unknown field 'weather'"):
        RemoteWorldEnv(address, image, weather="rain")
    env = RemoteWorldEnv(address, image, fov=60)
    walk, env._walk = env._walk, {"id": "walk_of_nobody"}
    with pytest.raises(SettingsError, match="There is no such walk"):
        env.step(held_keys("w"))
    with pytest.raises(SettingsError, match="1 walk is under way"):
        RemoteWorldEnv(address, image, fov=60)
    env._walk = walk
    env.close()


def test_an_episode_ends_before_the_models_positions_do(address: str, folder: Path, image: Path) -> None:
    most = (World.from_pretrained(folder, device="cpu").spec.max_positions - 1) // 1  # latents a chunk
    for _ in range(2):  # the walk that was entered is given back
        with pytest.raises(SettingsError, match=f"max_chunks = {most + 1}.* {most}"):
            RemoteWorldEnv(address, image, fov=60, max_chunks=most + 1)
    RemoteWorldEnv(address, image, fov=60, max_chunks=most).close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"address": "localhost:8000"}, "is not a server's address"),
        ({"image": "nowhere.png"}, "nowhere.png cannot be read"),
        ({"render_mode": "human"}, 'must be "rgb_array" or None'),
        ({"seed": 3}, "seeds are passed to `reset`"),
        ({"max_chunks": 0}, "max_chunks = 0"),
    ],
)
def test_wrong_settings_are_told_before_anybody_is_asked(
    image: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        RemoteWorldEnv(**({"address": "http://127.0.0.1:9", "image": image} | settings))


def test_a_server_that_is_not_there_and_an_error_in_a_stream_are_told(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SanaError, match="does not answer"):
        RemoteWorldEnv("http://127.0.0.1:9", image)
    env = RemoteWorldEnv.__new__(RemoteWorldEnv)
    broken = b'event: error\ndata: {"error": {"message": "The decoded frames became NaN."}}\n\n'
    monkeypatch.setattr(env, "_ask", lambda *given, **more: io.BytesIO(broken), raising=False)
    with pytest.raises(SanaError, match="became NaN"):
        list(env._events("http://127.0.0.1:9", {}))
    assert remote._sentence(b"<html>", 502) == (
        "The server answered 502 without a reason: check that it is a server of sanakit."
    )
