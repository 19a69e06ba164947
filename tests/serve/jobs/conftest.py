"""A runner of jobs with an engine that a test drives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from tests.serve.jobs.fakes import FakeEngine, WatchedJobs


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[WatchedJobs]:
    store = WatchedJobs(tmp_path / "jobs.sqlite")
    yield store
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "pictures")


@pytest.fixture
def start(jobs: WatchedJobs, store: ImageStore) -> Iterator[Callable[..., JobRunner]]:
    started: list[JobRunner] = []

    def begin(engine: FakeEngine, **options: Any) -> JobRunner:
        runner = JobRunner(engine, jobs, store, "me", **{"poll": 0.05, **options})  # pyright: ignore
        runner.start()
        started.append(runner)
        return runner

    yield begin
    for runner in started:
        runner.close()
        assert not runner.alive
