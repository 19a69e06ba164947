"""With the true engine: a stored job is drawn as its request would have been, also after kill -9."""

from __future__ import annotations

import io
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import StorageError
from sanakit.images.image import encode
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import Job, JobStore, new_job_id
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore

PATIENCE = 60  # seconds until a test gives up
BODY = {"model": None, "prompt": "a red apple", "width": 64, "height": 64, "steps": 2}
DRAWN_BEFORE = 3  # jobs that are finished when the process is killed

DRAWS_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore

class Jobs(JobStore):
    left = int(sys.argv[2])

    def finish(self, *arguments):
        if self.left == 0:  # its images are stored, the database does not know of them
            print(place.name, flush=True)
            time.sleep(600)
        self.left -= 1
        return super().finish(*arguments)

folder = Path(sys.argv[1])
place, jobs = Instance(folder), Jobs(folder / "jobs.sqlite")
engine = Engine(["pocket"], device="cpu", threads=1)
engine.start()
JobRunner(engine, jobs, ImageStore(folder / "pictures"), place.name).start()
time.sleep(600)
"""


class WatchedJobs(JobStore):
    """Tells the test of each job that ended."""

    def __init__(self, url: Path) -> None:
        super().__init__(url)
        self.ended: queue.Queue[str] = queue.Queue()

    def _end(self, job_id: str, owner: str, **values: Any) -> bool:
        ended = super()._end(job_id, owner, **values)
        self.ended.put(job_id)
        return ended


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[WatchedJobs]:
    store = WatchedJobs(tmp_path / "jobs.sqlite")
    yield store
    store.close()


def look_up(jobs: JobStore, job: Job) -> Job:
    found = jobs.get(job.id, None)
    assert found is not None
    return found


def difference(store: ImageStore, job: Job, engine: Engine, body: dict[str, Any]) -> int:
    """The most by which a job's first image differs from the same request drawn alone, of 255."""
    alone = engine.submit(engine.check(**body)).result(PATIENCE).images[0]
    assert isinstance(alone, Image.Image)
    with Image.open(io.BytesIO(store.get(job.files[0]["name"]))) as image:
        return max(abs(a - b) for a, b in zip(image.tobytes(), alone.tobytes(), strict=True))


def test_a_stored_job_is_drawn_as_its_request_would_have_been(
    jobs: WatchedJobs, engine: Engine, tmp_path: Path
) -> None:
    store, green = ImageStore(tmp_path / "pictures"), Image.new("RGB", (64, 64), "green")
    store.put("in.png", encode(green, "PNG"))
    drawing = {**BODY, "seed": 3, "num_images": 2}
    edit = {**BODY, "seed": 4, "image": "in.png", "mask": None, "strength": 0.5}
    added = [jobs.add("generation", drawing, None, 2), jobs.add("edit", edit, None, 1)]
    runner = JobRunner(engine, jobs, store, "me")
    runner.start()
    for _ in added:
        jobs.ended.get(timeout=PATIENCE)
    runner.close()
    first, second = (look_up(jobs, job) for job in added)
    assert (first.status, second.status) == ("finished", "finished")
    assert len(first.files) == 2
    assert difference(store, first, engine, drawing) <= 2
    assert difference(store, second, engine, {**edit, "image": green}) <= 2


@pytest.mark.thorough
def test_after_kill_9_in_the_middle_of_a_batch_all_jobs_are_finished_and_none_twice(
    jobs: WatchedJobs, engine: Engine, tmp_path: Path
) -> None:
    added = [jobs.add("generation", {**BODY, "seed": i}, None, 1) for i in range(8)]
    words = [sys.executable, "-c", DRAWS_UNTIL_KILLED, str(tmp_path), str(DRAWN_BEFORE)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = [look_up(jobs, job) for job in added]
    assert jobs.counts()["finished"] == DRAWN_BEFORE
    assert jobs.counts()["running"] == 8 - DRAWN_BEFORE
    store, place = ImageStore(tmp_path / "pictures"), Instance(tmp_path)
    assert len(store.names()) == DRAWN_BEFORE + 1  # one was stored and not yet said to be finished
    assert place.name == name

    runner = JobRunner(engine, jobs, store, place.name)
    runner.start()
    again = [jobs.ended.get(timeout=PATIENCE) for _ in range(8 - DRAWN_BEFORE)]
    runner.close()
    place.close()
    after = [look_up(jobs, job) for job in added]
    assert [job.status for job in after] == ["finished"] * 8
    assert sorted(again) == sorted(job.id for job in before if job.status == "running")
    for old, new in zip(before, after, strict=True):
        assert (new.attempts, old.ended in (None, new.ended)) == (2 if old.ended is None else 1, True)
        assert difference(store, new, engine, new.body) <= 2
    assert len(store.names()) == 8


def test_uploads_whose_server_was_killed_before_their_job_was_stored_go_at_the_next_start(
    engine: Engine, tmp_path: Path
) -> None:
    jobs, store = JobStore(tmp_path / "jobs.sqlite"), ImageStore(tmp_path / "pictures")
    lost, young = f"{new_job_id()}-image-{'0' * 32}.png", f"{new_job_id()}-mask-{'0' * 32}.png"
    kept_id = new_job_id()
    kept = f"{kept_id}-image-{'1' * 32}.png"
    for name in (lost, young, kept, "page-1.png", "image_20200101_0.png"):
        store.put(name, encode(Image.new("RGB", (64, 64)), "PNG"))
        if name != young:
            os.utime(tmp_path / "pictures" / name, times=(0, 0))
    jobs.add("edit", BODY | {"image": kept}, None, 1, job_id=kept_id)
    half = tmp_path / "pictures" / f".a.png.{'0' * 16}.partial"
    half.write_bytes(b"half")
    os.utime(half, times=(0, 0))
    runner = JobRunner(engine, jobs, store, "test", poll=0.02)
    runner.start()
    until = time.monotonic() + PATIENCE
    while lost in store.names() or half.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    runner.close(PATIENCE)
    assert {young, kept, "page-1.png", "image_20200101_0.png"} <= {*store.names()}
    jobs.close()


def test_a_store_that_cannot_be_swept_stops_no_job_and_is_looked_at_again_later(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, store, looked = JobStore(tmp_path / "jobs.sqlite"), ImageStore(tmp_path / "pictures"), []

    def broken(prefix: str = "") -> list[str]:
        looked.append(prefix)
        raise StorageError("The images cannot be listed.")

    monkeypatch.setattr(store, "names", broken)
    job = jobs.add("generation", BODY, None, 1)
    runner = JobRunner(engine, jobs, store, "test", poll=0.02)
    runner.start()
    until = time.monotonic() + PATIENCE
    while (found := jobs.get(job.id, None)) is None or found.status != "finished":
        assert time.monotonic() < until
        time.sleep(0.02)
    runner.close(PATIENCE)
    assert looked == ["job_"]
    jobs.close()
