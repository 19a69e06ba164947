"""No job is lost or drawn twice when the database fails, the disk is full or the server closes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fsspec")

from sanakit.errors import OutputError, StorageError
from sanakit.serve.jobs.jobs import Job
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from tests.serve.jobs.fakes import PATIENCE, FakeEngine, WatchedJobs, add, ended


def test_a_database_that_fails_is_tried_again_without_drawing_again(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    engine = FakeEngine()
    jobs.works.clear()
    job = add(jobs)
    runner = start(engine)
    for _ in range(3):
        assert jobs.failures.get(timeout=PATIENCE) == job.id
    assert "locked" in runner.trouble
    jobs.works.set()
    assert jobs.wait_for(1) == [job.id]
    assert ended(jobs, job).status == "finished"
    assert engine.submitted.qsize() == 1


def test_a_full_disk_makes_finished_pictures_wait_and_loses_none(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: queue.Queue[str] = queue.Queue()

    def full(name: str, data: bytes) -> None:
        tries.put(name)
        raise OutputError("The image cannot be written (No space left on device).")

    added = [add(jobs), add(jobs)]
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        runner = start(FakeEngine())
        seen = {tries.get(timeout=PATIENCE) for _ in range(6)}
        assert len(seen) == 2  # one that cannot be stored does not keep others from being drawn
        assert "No space" in runner.trouble
    assert sorted(jobs.wait_for(2)) == sorted(job.id for job in added)
    assert [ended(jobs, job).status for job in added] == ["finished"] * 2


def test_close_finishes_what_it_has_time_for_and_puts_the_rest_back(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    engine = FakeEngine(at_once=False)
    added = [add(jobs) for _ in range(2)]
    runner = start(engine)
    first, second = (engine.submitted.get(timeout=PATIENCE) for _ in range(2))
    closing = threading.Thread(target=runner.close, args=(PATIENCE,))
    closing.start()
    late = add(jobs)
    runner.wake()
    first.draw()
    assert jobs.wait_for(1) == [added[0].id]
    runner.close(0)
    closing.join(PATIENCE)
    assert second.cancelled.is_set()
    assert [ended(jobs, job).status for job in (*added, late)] == ["finished", "queued", "queued"]
    assert ended(jobs, added[1]).attempts == 0


def test_a_closed_engine_puts_jobs_back(jobs: WatchedJobs, start: Callable[..., JobRunner]) -> None:
    job = add(jobs, "closed")
    runner = start(FakeEngine())
    runner._thread.join(PATIENCE)
    assert not runner.alive
    assert ended(jobs, job).status == "queued"


def test_a_claim_whose_answer_was_lost_is_put_back(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    add(jobs)
    claim = jobs.claim

    def breaks_after_the_commit(owner: str, lease_seconds: float, **kinds: bool) -> Job | None:
        jobs.claim = claim
        claim(owner, lease_seconds, **kinds)
        raise StorageError("The connection broke.")

    jobs.claim = breaks_after_the_commit
    start(FakeEngine())
    jobs.wait_for(1)
