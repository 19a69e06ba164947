"""An engine that draws when a test says so, and a store of jobs that tells what ended."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from sanakit.errors import BusyError, ClosedError, NumericsError, SettingsError, StorageError
from sanakit.pipelines.result import Result
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.jobs.jobs import Job, JobStore

PATIENCE = 20  # seconds until a test gives up


class FakeTicket:
    """What the engine's submit gives."""

    def __init__(self, request: Any, on_event: Callable[[object], None]) -> None:
        self.request, self.on_event = request, on_event
        self.cancelled, self._drawn = threading.Event(), threading.Event()

    @property
    def done(self) -> bool:
        return self._drawn.is_set()

    def cancel(self) -> None:
        self.cancelled.set()

    def draw(self) -> None:
        self._drawn.set()
        self.on_event(object())

    def result(self, timeout: float | None = None) -> Result:
        assert self.done
        settings = self.request
        if settings.prompt == "poison":
            raise NumericsError("NaN in the latents.")
        if settings.prompt == "bug":
            raise ZeroDivisionError("SECRET")
        if settings.prompt == "closed":
            raise ClosedError("The server is stopping.")
        images: list[Image.Image] = [
            Image.new("RGB", (8, 8), ((settings.seed + i) % 256, 0, 0)) for i in range(settings.num_images)
        ]
        about: list[Any] = [
            {"prompt": settings.prompt, "seed": settings.seed + i, "steps": 1, "model": "fake"}
            | {"width": 8, "height": 8}
            for i in range(settings.num_images)
        ]
        return Result(images=images, seeds=[], timings={}, metadata=about, warnings=[])


class FakeEngine:
    """Draws at once, or when the test says so; full when the test says so."""

    def __init__(self, at_once: bool = True) -> None:
        self.at_once, self.room, self.decoding = at_once, threading.Event(), DecodingTurns()
        self.specs = {"fake": None}
        self.room.set()
        self.submitted: queue.Queue[FakeTicket] = queue.Queue()
        self.refused: queue.Queue[str] = queue.Queue()

    def check(
        self, model: str | None, prompt: str, *, seed: int, num_images: int = 1, image: Any = None
    ) -> SimpleNamespace:
        if prompt == "refused":
            raise SettingsError("steps = 0, but it must be a whole number from 1 to 1000.")
        return SimpleNamespace(prompt=prompt, seed=seed, num_images=num_images, image=image)

    def submit(self, request: Any, on_event: Callable[[object], None], name: str) -> FakeTicket:
        if not self.room.is_set():
            self.refused.put(request.prompt)
            raise BusyError("The queue is full.")
        ticket = FakeTicket(request, on_event)
        self.submitted.put(ticket)
        if self.at_once:
            ticket.draw()
        return ticket


class WatchedJobs(JobStore):
    """Tells the test of each job that ended, and fails when the test says so."""

    def __init__(self, url: Path) -> None:
        super().__init__(url)
        self.ended: queue.Queue[str] = queue.Queue()
        self.works = threading.Event()
        self.works.set()
        self.failures: queue.Queue[str] = queue.Queue()

    def _end(self, job_id: str, owner: str, **values: Any) -> bool:
        if not self.works.is_set():
            self.failures.put(job_id)
            raise StorageError("The database is locked.")
        ended = super()._end(job_id, owner, **values)
        self.ended.put(job_id)
        return ended

    def wait_for(self, count: int) -> list[str]:
        return [self.ended.get(timeout=PATIENCE) for _ in range(count)]


def add(jobs: JobStore, prompt: str = "a red apple", **body: Any) -> Job:
    settings = {"model": None, "prompt": prompt, "seed": 7, "num_images": 1} | body
    return jobs.add("generation", settings, None, settings["num_images"])


def ended(jobs: JobStore, job: Job) -> Job:
    found = jobs.get(job.id, None)
    assert found is not None
    return found
