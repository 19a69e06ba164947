"""Running engines, an application around them, and a PostgreSQL server where its programs are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sanakit.models.sana import Sana
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.app import create_app
from sanakit.serve.http.service import HttpSettings
from sanakit.serve.jobs.database import Database
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import KeyStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from tests.pipelines.video.tiny import save_tiny
from tests.pipelines.world.tiny import AUTOENCODER, DEFAULTS, STREAMING, save_world

ACCOUNT = "postgres"  # the server refuses to run as root


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The folder of its socket; it listens nowhere else."""
    psycopg = pytest.importorskip("psycopg")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if initdb is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    as_root = os.geteuid() == 0
    account = ACCOUNT if as_root else None
    folder = tempfile.mkdtemp(prefix="sana-pg-")
    if as_root:
        shutil.chown(folder, ACCOUNT, ACCOUNT)
    making = [initdb, "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "-N"]
    subprocess.run(making, user=account, cwd=folder, check=True, capture_output=True)
    server = subprocess.Popen(
        [str(Path(initdb).with_name("postgres")), "-D", f"{folder}/data", "-k", folder, "-h", "", "-F"],
        user=account,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    for line in server.stderr:
        if "ready to accept connections" in line:
            break
    else:
        pytest.fail("PostgreSQL did not start")
    psycopg.connect(host=folder, user="postgres").close()
    yield folder
    server.terminate()
    server.stderr.close()
    server.wait()
    shutil.rmtree(folder)


@pytest.fixture
def postgresql(postgresql_server: str, request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty database."""
    import psycopg
    from psycopg import sql

    name = f"test{abs(hash(request.node.nodeid))}"
    with psycopg.connect(host=postgresql_server, user="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"postgresql://postgres@/{name}?host={postgresql_server}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return str(tmp_path / "data" / "jobs.sqlite")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The embedded model, started once; small images of few steps take a few hundredths of a second."""
    running = Engine(["pocket"], device="cpu", threads=1)
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny video model of random numbers."""
    return save_tiny(tmp_path_factory.mktemp("tiny-video") / "model")


@pytest.fixture(scope="session")
def clip_engine(video_folder: Path) -> Iterator[ClipEngine]:
    """An engine of that model, started once."""
    running = ClipEngine([str(video_folder)], device="cpu", threads=1)
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="session")
def walking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world model of random numbers that streams 8 frames of 64x64 a chunk."""
    causal = replace(AUTOENCODER, decoder_causal=True)
    defaults = {**DEFAULTS, "width": 64, "height": 64, "chunks": {"length": 1}}
    return save_world(tmp_path_factory.mktemp("tiny-walking") / "model", STREAMING, causal, defaults)


@pytest.fixture(scope="session")
def running_worlds(walking_folder: Path) -> Iterator[WorldEngine]:
    running = WorldEngine(str(walking_folder), device="cpu", threads=1, kept=2)
    running.start()
    yield running
    running.close()


@pytest.fixture
def world_engine(running_worlds: WorldEngine) -> Iterator[WorldEngine]:
    """An engine of that model, started once; two states are kept of each walk, and none is left behind."""
    yield running_worlds
    for walk in list(running_worlds._walks.values()):
        running_worlds.end(walk)


@dataclass
class Parts:
    """An application in a test's folder, and what is behind it."""

    app: FastAPI
    client: TestClient
    engine: Engine
    jobs: JobStore
    store: ImageStore
    keys: KeyStore
    runner: JobRunner
    draining: threading.Event
    clips: ClipEngine | None
    worlds: WorldEngine | None

    def draw(self, **body: Any) -> Any:
        """Ask for images, small and quick unless the body says otherwise."""
        small = {"prompt": "a red apple", "size": "64x64", "steps": 2}
        return self.client.post("/v1/images/generations", json=small | body)

    def events(self, answer: Any) -> list[tuple[str, dict[str, Any]]]:
        """Names and data of a stream's events."""
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = [block.split("\n") for block in answer.text.split("\n\n") if block.startswith("event: ")]
        return [
            (name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks
        ]


@pytest.fixture
def make_parts(engine: Engine, tmp_path: Path) -> Iterator[Callable[..., Parts]]:
    """Build the application with these settings of the door."""
    with ExitStack() as stack:

        def make(
            clips: ClipEngine | None = None, worlds: WorldEngine | None = None, **settings: Any
        ) -> Parts:
            database = Database(tmp_path / "jobs.sqlite")
            stack.callback(database.close)
            jobs, keys, store = (
                JobStore(database),
                KeyStore(database),
                ImageStore(str(tmp_path / "pictures")),
            )
            runner = JobRunner(engine, jobs, store, "test", clips=clips, poll=0.05)
            stack.callback(runner.close)
            draining = threading.Event()
            app = create_app(
                engine,
                jobs=jobs,
                store=store,
                keys=keys,
                clips=clips,
                worlds=worlds,
                settings=HttpSettings(**settings),
                draining=draining,
                wake=runner.wake,
            )
            client = TestClient(app, base_url="http://127.0.0.1")
            return Parts(app, client, engine, jobs, store, keys, runner, draining, clips, worlds)

        yield make


@pytest.fixture
def parts(make_parts: Callable[..., Parts]) -> Parts:
    """The application as it is without any settings."""
    return make_parts()


class Gate:
    """Holds the model at a step until it is opened, so that tests know what happens meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        whole = Sana.velocity

        def held(*inputs, **options) -> torch.Tensor:
            self.reached.set()
            assert self.opened.wait(60)
            return whole(*inputs, **options)

        monkeypatch.setattr(Sana, "velocity", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()
