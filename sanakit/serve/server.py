"""`sana serve` as a function: build engine, stores, runner and application, listen, and stop cleanly.

Order of stopping: /ready fails, and no connection or job is accepted. Running work has `drain` seconds. Then
the engine fails the rest with a 503, and unfinished jobs go back to the queue in the database for the next
start.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from sanakit.errors import OutputError, SettingsError, StorageError
from sanakit.serve.engine.clip_engine import ClipEngine, split_models
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine, split_worlds
from sanakit.serve.heap import trimmed_heap
from sanakit.serve.http.access import LOOPBACK
from sanakit.serve.http.app import create_app
from sanakit.serve.http.service import HttpSettings
from sanakit.serve.http.stored_images_api import made_before
from sanakit.serve.jobs.database import Database
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import KeyStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.uvicorn_seams import Server
from sanakit.serve.web.history import drawn_before
from sanakit.wording import counted

log = logging.getLogger(__name__)

DATABASE, PICTURES, PAGE = "jobs.sqlite", "pictures", "page"  # in the server's folder
_EXPIRY_EVERY = 3600.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """All settings of `sana serve`. Raises SettingsError if anybody could use the server unintentionally."""

    models: tuple[str, ...] = (
        "pocket",
    )  # of images, videos, one of worlds; the first of a kind is its default
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    data: Path = Path("sana-data")
    database: str | None = None  # URL; None: a file in `data`
    pictures: str | None = None  # folder or URL of fsspec; None: a folder in `data`
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    max_batch: int = 16  # images
    max_waiting: int = 64  # images; as many clips, of those that the page asks for
    keep_days: int | None = None  # how long jobs and kept images stay; None: for ever
    drain: float = 30.0  # seconds
    adapters: Mapping[str, str] = field(default_factory=dict)  # name -> LoRA file
    controls: Mapping[str, str] = field(default_factory=dict)  # name -> ControlNet
    image_filter: bool = False
    prompt_filter: str | None = None  # folder of ShieldGemma
    door: HttpSettings = field(default_factory=HttpSettings)

    @property
    def local(self) -> bool:
        """Return whether only this machine can reach the server."""
        return self.host in LOOPBACK or re.fullmatch(r"127(\.\d{1,3}){3}", self.host) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNames:
    """The names of the served models, by what they make."""

    images: list[str]
    videos: list[str]
    worlds: list[str]

    @property
    def all(self) -> list[str]:
        """All names, those of images first."""
        return [*self.images, *self.videos, *self.worlds]


def serve(
    settings: ServerSettings,
    announce: Callable[[str, ModelNames], None],
    *,
    extend: Callable[[FastAPI, Path], None] | None = None,
) -> int | None:
    """Serve until SIGTERM or SIGINT, then stop cleanly; return the number of the signal.

    announce: called with the address and the names of the models, by what they make, once requests are
    accepted. extend: adds to the application; it gets a folder for files that nobody needs after the end.
    Raises SettingsError, StorageError, OutputError, and what starting the engine raises.
    """
    with ExitStack() as stack:
        stack.enter_context(trimmed_heap())
        database = Database(settings.database or settings.data / DATABASE)
        stack.callback(database.close)
        jobs, keys = JobStore(database), KeyStore(database)
        if (
            not settings.local
            and not settings.door.no_auth
            and not any(key.revoked is None for key in keys.list())
        ):
            raise SettingsError(
                f"{settings.host} can be reached by other machines, but no key exists: make one with "
                "`sana keys create NAME`, or use --no-auth to serve everybody."
            )
        store = ImageStore(settings.pictures or str(settings.data / PICTURES))
        server = Server(settings.host, settings.port, settings.drain)
        stack.callback(server.close)
        instance = Instance(settings.data)
        stack.callback(instance.close)
        engine, clips, worlds = _engines(settings)
        keep = None if settings.keep_days is None else timedelta(days=settings.keep_days)
        runner = JobRunner(engine, jobs, store, instance.name, clips=clips, keep=keep)
        app = create_app(
            engine,
            jobs=jobs,
            store=store,
            keys=keys,
            clips=clips,
            worlds=worlds,
            settings=replace(settings.door, local=settings.local),
            draining=server.draining,
            wake=runner.wake,
        )
        if extend is not None:
            folder = (settings.data / PAGE / instance.name).absolute()
            extend(app, stack.enter_context(_private_folder(folder)))
        engine.start()
        stack.callback(engine.close)
        if clips is not None:
            clips.start()
            stack.callback(clips.close)
        if worlds is not None:
            worlds.start()
            stack.callback(worlds.close)
        runner.start()
        stack.callback(runner.close)
        if settings.keep_days is not None:
            stack.enter_context(_expiry(store, settings.keep_days))

        def stop() -> None:
            end = time.monotonic() + settings.drain
            images, videos = _left(engine), _left(clips)
            told = counted(images, "image") + (f" and {counted(videos, 'video')}" if clips else "")
            log.info("Stopping: %s left to draw, in at most %g s.", told, settings.drain)
            returned = runner.close(settings.drain)
            engine.close(max(0.0, end - time.monotonic()))
            if clips is not None:
                clips.close(max(0.0, end - time.monotonic()))
            if worlds is not None:
                worlds.close(max(0.0, end - time.monotonic()))
            log.info("Stopped: %d jobs are back in the queue for the next start.", returned)

        names = ModelNames(
            images=list(engine.specs),
            videos=list(clips.specs) if clips else [],
            worlds=[worlds.name] if worlds else [],
        )
        server.run_app(app, lambda address: announce(address, names), stop)
        return server.stopped_by


def _left(engine: Engine | ClipEngine | None) -> int:
    """Return how much an engine has to draw."""
    now = engine.stats() if engine else {"running": 0, "waiting": 0}
    return now["running"] + now["waiting"]


def _engines(settings: ServerSettings) -> tuple[Engine, ClipEngine | None, WorldEngine | None]:
    """Return the engine of images, which may have no model, and those of clips and worlds if needed."""
    others, world = split_worlds(settings.models)
    images, videos = split_models(others)
    image_filter = prompt_filter = None
    if settings.image_filter:
        from sanakit.pipelines.safety import ImageFilter

        image_filter = ImageFilter()
    if settings.prompt_filter is not None:
        from sanakit.weights import load_prompt_filter

        prompt_filter = load_prompt_filter(settings.prompt_filter, log_prompts=settings.door.log_prompts)
    shared: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype, "memory": settings.memory}
    shared |= {"prompt_filter": prompt_filter, "image_filter": image_filter}
    engine = Engine(
        images,
        max_batch=settings.max_batch,
        adapters=settings.adapters,
        controls=settings.controls,
        max_waiting=settings.max_waiting,
        **shared,
    )
    clips = worlds = None
    if videos:
        clips = ClipEngine(videos, taken=engine.specs, max_waiting=settings.max_waiting, **shared)
    if world is not None:
        taken = [*engine.specs, *(clips.specs if clips else ())]
        worlds = WorldEngine(world, taken=taken, **shared)
    return engine, clips, worlds


def delete_before(store: ImageStore, days: int) -> int:
    """Delete the images of no job that are older than so many days; return how many. Raises StorageError."""
    first_kept = datetime.now(UTC) - timedelta(days=days)
    is_old = (made_before, drawn_before)
    old = [name for name in store.names() if any(check(name, first_kept) for check in is_old)]
    for name in old:
        store.delete(name)
    return len(old)


@contextmanager
def _private_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for its owner alone; it goes at the end, or at the next start after a kill."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        sentence = f"The folder {folder} cannot be made ({error.strerror}): check its permissions."
        raise OutputError(sentence) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _expiry(store: ImageStore, days: int) -> Iterator[None]:
    """Delete old images of no job now and every hour; those of jobs are the runner's."""
    over = threading.Event()

    def work() -> None:
        while True:
            try:
                if deleted := delete_before(store, days):
                    log.info("%d images were deleted: they are older than %d days.", deleted, days)
            except StorageError as error:
                log.warning("Old images could not be deleted: %s", error)
            if over.wait(_EXPIRY_EVERY):
                return

    thread = threading.Thread(target=work, name="sana-expiry", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
