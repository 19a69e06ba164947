"""The same API on several machines: Ray Serve keeps replicas of one engine and the app around it.

Every replica is a process with an engine of its own. They share the database and the image store, so any
replica can find, finish and cancel a job. A replica that dies is replaced, and its jobs go back to the queue.
Each machine runs a proxy that passes requests, and streams, on to a replica.

    serve run deploy/ray-serve.yaml                         (or: sanakit.serve.cluster:app models=pocket)

Source: Ray Serve's reference of `serve.ingress`, which builds the app in the replica, and of config files.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from sanakit.errors import ClosedError, SettingsError
from sanakit.serve.engine.clip_engine import ClipEngine, split_models
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import split_worlds
from sanakit.serve.heap import trimmed_heap
from sanakit.serve.http.app import create_app
from sanakit.serve.http.service import HttpSettings
from sanakit.serve.jobs.database import Database
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import KeyStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.server import DATABASE, PICTURES

NAME = "sanakit"  # of the application, for `serve status`
OPEN_REQUESTS = 256  # of one replica; its engine's queue says no long before
DRAIN = 30.0  # seconds for what a replica draws, when it is to stop
_STOP = 10.0  # seconds more before Ray kills it

Models = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class ClusterSettings(BaseModel):
    """The settings under `args` in a config file; see `Engine` and `sana serve` for their meaning.

    database, pictures: for several machines PostgreSQL's URL, and a folder or store that all of them reach;
    by default they are in `data`. The address that the proxies listen on is not known here, so keys are
    always needed, unless no_auth.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Models = Field(["pocket"], min_length=1)
    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(1, gt=0)  # of a replica: what Ray sets aside; also threads of the engine
    num_gpus: float = Field(0, ge=0)
    data: str = "sana-data"
    database: str | None = None
    pictures: str | None = None
    memory: str = "auto"
    adapters: dict[str, str] = Field({})  # name -> LoRA file, which all machines reach
    controls: dict[str, str] = Field({})  # name -> ControlNet, likewise
    no_auth: bool = False


class Replica:
    """One engine with the whole API around it, in a process of its own."""

    def __init__(self, settings: ClusterSettings) -> None:
        data = Path(settings.data)
        self.settings = settings
        self.heap = ExitStack()
        self.heap.enter_context(trimmed_heap())
        self.draining = threading.Event()
        self.database = Database(settings.database or data / DATABASE)
        self.jobs, self.keys = JobStore(self.database), KeyStore(self.database)
        self.store = ImageStore(settings.pictures or data / PICTURES)
        threads = max(1, round(settings.num_cpus))
        others, world = split_worlds(settings.models)
        if world is not None:
            raise SettingsError(
                f"{world} is a model of worlds, whose walks live in one process: serve it with `sana serve`."
            )
        images, videos = split_models(others)
        self.engine = Engine(
            images,
            memory=settings.memory,
            threads=threads,
            adapters=settings.adapters,
            controls=settings.controls,
        )
        beside = {"taken": self.engine.specs, "memory": settings.memory, "threads": threads}
        self.clips = ClipEngine(videos, **beside) if videos else None
        self.instance = Instance(data)
        self.runner = JobRunner(self.engine, self.jobs, self.store, self.instance.name, clips=self.clips)
        self.engine.start()
        if self.clips is not None:
            self.clips.start()
        self.runner.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Pass the app of `sana serve` to Ray Serve."""
        door = HttpSettings(no_auth=self.settings.no_auth, local=False)
        return create_app(
            self.engine,
            jobs=self.jobs,
            store=self.store,
            keys=self.keys,
            clips=self.clips,
            settings=door,
            draining=self.draining,
            wake=self.runner.wake,
        )

    def check_health(self) -> None:
        """Raise ClosedError if this replica cannot draw any more: Ray Serve then replaces it."""
        engines = [self.engine] if self.clips is None else [self.engine, self.clips]
        if not (all(engine.alive for engine in engines) and self.runner.alive):
            raise ClosedError("An engine or the job runner has ended.")

    def stats(self) -> dict[str, Any]:
        """Return `Engine.stats` and the process id, for a handle's `broadcast`: each replica has its own."""
        return {**self.engine.stats(), "process": os.getpid()}

    async def __del__(self) -> None:
        """Finish what is drawn within DRAIN seconds, put the other jobs back, and leave."""
        self.draining.set()
        await asyncio.to_thread(self.runner.close, DRAIN)
        await asyncio.to_thread(self.engine.close, DRAIN)
        if self.clips is not None:
            await asyncio.to_thread(self.clips.close, DRAIN)
        self.instance.close()
        self.database.close()
        self.heap.close()


def application(settings: ClusterSettings) -> Application:
    """Return the application as `serve.run` takes it."""
    deployment = serve.deployment(serve.ingress()(Replica)).options(  # pyright: ignore[reportFunctionMemberAccess]
        name="server",
        num_replicas=settings.replicas,
        max_ongoing_requests=OPEN_REQUESTS,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        graceful_shutdown_timeout_s=DRAIN + _STOP,
    )
    return deployment.bind(settings)


def app(arguments: dict[str, Any]) -> Application:
    """Return the application for `serve run` and config files. Raises SettingsError."""
    try:
        return application(ClusterSettings.model_validate(arguments))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        names = ", ".join(ClusterSettings.model_fields)
        raise SettingsError(f"These arguments are invalid ({wrong}). Valid ones: {names}.") from None


def deploy(settings: ClusterSettings, *, host: str = "127.0.0.1", port: int = 8000) -> DeploymentHandle:
    """Start the replicas on the Ray cluster that this process is connected to, or on this machine alone.

    host, port: where the proxies listen. Returns, when all replicas answer, a handle for `stats`.
    `ray.serve.delete(NAME)` stops them.
    """
    serve.start(http_options={"host": host, "port": port})
    return serve.run(application(settings), name=NAME, route_prefix="/")
