"""Every accepted job is drawn and finished once, through engines that are busy or fail."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fsspec")

from PIL import Image

from sanakit.images.image import encode, read_metadata
from sanakit.serve.engine.ticket import Stepped
from sanakit.serve.jobs import runner as runner_module
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from tests.serve.jobs.fakes import PATIENCE, FakeEngine, WatchedJobs, add, ended


def test_a_job_is_drawn_stored_with_its_settings_and_finished(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner], tmp_path: Path
) -> None:
    runner = start(FakeEngine())
    job = add(jobs, num_images=2)
    runner.wake()
    assert jobs.wait_for(1) == [job.id]
    done = ended(jobs, job)
    assert done.status == "finished"
    assert [file["name"] for file in done.files] == [f"{job.id}-0.png", f"{job.id}-1.png"]
    assert done.files[1]["metadata"]["seed"] == 8
    assert store.names() == [file["name"] for file in done.files]
    assert read_metadata(tmp_path / "pictures" / f"{job.id}-1.png")["prompt"] == "a red apple"
    assert runner.trouble == ""


def test_an_edits_picture_comes_from_the_store(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner]
) -> None:
    store.put("in.png", encode(Image.new("RGB", (5, 6), "red"), "PNG"))
    store.put("broken.png", b"no picture")
    engine = FakeEngine()
    added = [add(jobs, image=name) for name in ("in.png", "gone.png", "broken.png")]
    start(engine)
    jobs.wait_for(3)
    assert engine.submitted.get(timeout=PATIENCE).request.image.size == (5, 6)
    assert [ended(jobs, job).status for job in added] == ["finished", "failed", "failed"]
    assert "gone.png" in str(ended(jobs, added[1]).error_message)


def test_a_job_that_fails_fails_alone(jobs: WatchedJobs, start: Callable[..., JobRunner]) -> None:
    added = [add(jobs, prompt) for prompt in ("poison", "good", "bug", "refused", "good")]
    start(FakeEngine())
    jobs.wait_for(5)
    found = [ended(jobs, job) for job in added]
    assert [job.status for job in found] == ["failed", "finished", "failed", "failed", "finished"]
    assert [job.error_type for job in found[:4]] == ["NumericsError", None, "server_error", "SettingsError"]
    assert "SECRET" not in str(found[2].error_message)


def test_a_busy_engine_is_asked_again_and_later_jobs_wait_behind(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    engine = FakeEngine()
    engine.room.clear()
    first, second = add(jobs, "first"), add(jobs, "second")
    start(engine)
    assert [engine.refused.get(timeout=PATIENCE) for _ in range(3)] == ["first"] * 3
    assert jobs.counts()["queued"] == 1
    engine.room.set()
    assert jobs.wait_for(2) == [first.id, second.id]


def test_a_job_that_a_server_was_killed_with_is_drawn_with_no_later_ones(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    first, second, third = add(jobs), add(jobs), add(jobs)
    for _ in range(2):
        assert jobs.claim("me", 60)  # and then it was killed
    engine = FakeEngine(at_once=False)
    runner = start(engine)
    for job in (first, second):
        ticket = engine.submitted.get(timeout=PATIENCE)
        assert (jobs.counts()["running"], ended(jobs, job).attempts) == (1, 2)
        runner.wake()
        ticket.draw()
        assert jobs.wait_for(1) == [job.id]
    engine.submitted.get(timeout=PATIENCE).draw()
    assert jobs.wait_for(1) == [third.id]
    assert ended(jobs, third).attempts == 1


def test_no_more_is_claimed_than_there_is_room_for(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    engine = FakeEngine(at_once=False)
    large, *others = [add(jobs, num_images=n) for n in (9, 2, 1, 1)]
    start(engine, images_at_once=3)
    engine.submitted.get(timeout=PATIENCE).draw()  # larger than allowed: it ran alone
    assert jobs.wait_for(1) == [large.id]
    two = [engine.submitted.get(timeout=PATIENCE) for _ in range(2)]
    assert jobs.counts()["running"] == 2
    for ticket in two:
        ticket.draw()
    engine.submitted.get(timeout=PATIENCE).draw()
    assert sorted(jobs.wait_for(3)) == sorted(job.id for job in others)


def test_a_cancelled_job_stops_in_the_engine_and_keeps_no_place(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    engine = FakeEngine(at_once=False)
    runner = start(engine, images_at_once=1)
    job = add(jobs)
    runner.wake()
    ticket = engine.submitted.get(timeout=PATIENCE)
    other = add(jobs)
    assert jobs.cancel(job.id, None)
    runner.wake()
    assert ticket.cancelled.wait(PATIENCE)
    ticket.draw()  # too late
    engine.submitted.get(timeout=PATIENCE).draw()
    assert jobs.wait_for(1) == [other.id]
    assert ended(jobs, job).status == "cancelled"


def test_the_steps_of_a_drawing_do_not_ask_the_database(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    engine, asked = FakeEngine(at_once=False), []
    job = add(jobs)
    start(engine, poll=PATIENCE)
    ticket = engine.submitted.get(timeout=PATIENCE)
    held = jobs.held
    jobs.held = lambda owner: asked.append(owner) or held(owner)
    for index in range(50):
        ticket.on_event(Stepped(ticket, 0, index, 50, None))  # pyright: ignore[reportArgumentType]
        time.sleep(0.002)
    assert len(asked) <= 1  # the round that submitted it
    ticket.draw()
    assert jobs.wait_for(1) == [job.id]


def test_leases_are_renewed_while_a_job_is_drawn(jobs: WatchedJobs, start: Callable[..., JobRunner]) -> None:
    engine = FakeEngine(at_once=False)
    job = add(jobs)
    renewed = threading.Semaphore(0)
    renew = jobs.renew

    def counting(owner: str, ids: Collection[str], lease_seconds: float) -> None:
        renew(owner, ids, lease_seconds)
        renewed.release()

    jobs.renew = counting
    start(engine, lease=0.6)
    ticket = engine.submitted.get(timeout=PATIENCE)
    for _ in range(5):  # a second, in which the first lease would end
        assert renewed.acquire(timeout=PATIENCE)
        assert jobs.claim("another", 60) is None
    ticket.draw()
    assert jobs.wait_for(1) == [job.id]
    assert ended(jobs, job).status == "finished"


def test_a_lease_is_renewed_when_a_third_of_its_time_is_over(
    jobs: WatchedJobs, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a runner may miss two turns before another one takes its jobs."""
    clock, renewed = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(runner_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    jobs.renew = lambda owner, ids, lease_seconds: renewed.append((clock.now, list(ids), lease_seconds))
    runner = JobRunner(FakeEngine(), jobs, store, "me", lease=60.0)  # pyright: ignore[reportArgumentType]
    job = add(jobs)
    claimed = jobs.claim("me", 60.0)
    assert claimed is not None
    runner._held[job.id] = runner_module._Held(claimed)
    for clock.now in (1.0, 20.0, 22.0, 30.0, 41.0, 43.0, 62.0, 64.0):
        runner._keep_claims()
    assert renewed == [(at, [job.id], 60.0) for at in (1.0, 22.0, 43.0, 64.0)]


def test_ended_jobs_and_their_pictures_are_kept_as_long_as_asked(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner]
) -> None:
    job = add(jobs)
    start(FakeEngine()).wake()
    jobs.wait_for(1)
    deleted: queue.Queue[str] = queue.Queue()
    delete = store.delete

    def tell(name: str) -> None:
        delete(name)
        deleted.put(name)

    store.delete = tell
    start(FakeEngine(), keep=timedelta(0))
    assert deleted.get(timeout=PATIENCE) == f"{job.id}-0.png"
    assert store.names() == []
