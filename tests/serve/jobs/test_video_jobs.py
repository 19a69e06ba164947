"""Jobs that make clips: whose they are, which server takes them, their progress, and how they are deleted."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from sanakit.clips.clip import VideoClip
from sanakit.errors import BusyError
from sanakit.pipelines.video.result import ClipResult
from sanakit.serve.jobs.jobs import Job, JobStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore
from tests.serve.jobs.fakes import PATIENCE, FakeEngine, FakeTicket, WatchedJobs, add

BODY = {
    **{"model": "fake", "prompt": "a cat", "seed": 7, "frames": 5, "rate": "16", "width": 8, "height": 8},
    **{"format": "webp", "warnings": ["a note"]},
}


class ClipTicket(FakeTicket):
    share = 0.0

    def result(self, timeout: float | None = None) -> Any:
        settings: dict[str, Any] = {"prompt": self.request["prompt"], "seed": self.request["seed"]}
        frames = np.zeros((5, 8, 8, 3), np.uint8)
        clips = [VideoClip(frames=frames, rate=Fraction(16), settings=settings)]
        return ClipResult(
            clips=clips, seeds=[7], timings={}, metadata=[settings], warnings=["a word was cut"]
        )


class FakeClips(FakeEngine):
    """Draws a clip when the test says so."""

    def check(self, **settings: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert not {"format", "warnings"} & settings.keys(), "they are no settings of a clip"
        return settings

    def submit(self, request: Any, on_event: Callable[[object], None], name: str) -> FakeTicket:
        ticket = ClipTicket(request, on_event)
        self.submitted.put(ticket)
        return ticket


def add_video(jobs: JobStore, key_id: str | None = None, **body: Any) -> Job:
    return jobs.add("video", BODY | body, key_id, 1)


def look_up(jobs: JobStore, job: Job) -> Job | None:
    return jobs.get(job.id, None, video=True)


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_videos_and_images_are_never_taken_for_each_other(jobs: WatchedJobs) -> None:
    video, image = add_video(jobs), add(jobs)
    assert (jobs.get(video.id, None), jobs.get(image.id, None, video=True)) == (None, None)
    assert [job.id for job in jobs.list(None)] == [image.id]
    assert [job.id for job in jobs.list(None, video=True)] == [video.id]
    assert jobs.cancel(video.id, None) is False
    assert jobs.delete(image.id, None, pytest.fail) is False
    assert jobs.counts()["queued"] == 2


def test_videos_are_listed_in_either_order_from_any_of_them(jobs: WatchedJobs) -> None:
    ids = [add_video(jobs).id for _ in range(4)]
    add_video(jobs, "another")
    assert [job.id for job in jobs.list(None, 2, video=True)] == [ids[3], ids[2]]
    assert [job.id for job in jobs.list(None, 9, ids[2], video=True)] == [ids[1], ids[0]]
    assert [job.id for job in jobs.list(None, 9, ids[1], video=True, oldest_first=True)] == ids[2:]


def test_a_server_claims_what_it_can_draw(jobs: WatchedJobs) -> None:
    video, image = add_video(jobs), add(jobs)
    assert jobs.claim("a", 60, images=False, videos=False) is None
    first = jobs.claim("a", 60)
    second = jobs.claim("a", 60, images=False, videos=True)
    assert first is not None
    assert second is not None
    assert (first.id, second.id) == (image.id, video.id)


def test_images_go_on_beside_a_clip_and_a_second_clip_waits(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner]
) -> None:
    images, clips = FakeEngine(), FakeClips()
    first, second, image = add_video(jobs), add_video(jobs), add(jobs)
    runner = start(images, clips=clips)
    drawn = clips.submitted.get(timeout=PATIENCE)
    assert jobs.wait_for(1) == [image.id]
    found = look_up(jobs, second)
    assert found is not None
    assert found.status == "queued"
    drawn.draw()
    assert jobs.wait_for(1) == [first.id]
    clips.submitted.get(timeout=PATIENCE).draw()
    runner.wake()
    assert jobs.wait_for(1) == [second.id]
    done = look_up(jobs, first)
    assert done is not None
    assert (done.status, done.files[0]["name"]) == ("finished", f"{first.id}-video.webp")
    assert done.files[0]["warnings"][0] == "a word was cut"
    assert store.get(f"{first.id}-video.webp")[8:12] == b"WEBP"


def test_a_clip_for_which_there_is_no_room_does_not_keep_images_waiting(
    jobs: WatchedJobs, start: Callable[..., JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, video = FakeClips(), add_video(jobs)

    def full(*_: Any, **__: Any) -> FakeTicket:
        raise BusyError("64 clips are already waiting.")

    with monkeypatch.context() as patch:
        patch.setattr(clips, "submit", full)
        runner = start(FakeEngine(), clips=clips)
        image = add(jobs)
        runner.wake()
        assert jobs.wait_for(1) == [image.id]
    clips.submitted.get(timeout=PATIENCE).draw()
    assert jobs.wait_for(1) == [video.id]


@pytest.mark.parametrize("kind", ["images alone", "clips alone"])
def test_what_a_server_cannot_draw_waits_for_one_that_can(
    jobs: WatchedJobs, start: Callable[..., JobRunner], kind: str
) -> None:
    video, image = add_video(jobs), add(jobs)
    engine, clips = FakeEngine(), FakeClips()
    if kind == "images alone":
        start(engine)
        assert jobs.wait_for(1) == [image.id]
        waiting = look_up(jobs, video)
    else:
        engine.specs = {}
        start(engine, clips=clips)
        clips.submitted.get(timeout=PATIENCE).draw()
        assert jobs.wait_for(1) == [video.id]
        waiting = jobs.get(image.id, None)
    assert waiting is not None
    assert (waiting.status, waiting.attempts) == ("queued", 0)


def test_progress_is_kept_for_all_servers_and_begins_again_with_a_new_attempt(
    jobs: WatchedJobs, start: Callable[..., JobRunner]
) -> None:
    clips, job = FakeClips(), add_video(jobs)
    runner = start(FakeEngine(), clips=clips)
    ticket = clips.submitted.get(timeout=PATIENCE)
    ticket.share = 0.5  # pyright: ignore[reportAttributeAccessIssue]
    until(lambda: (found := look_up(jobs, job)) is not None and found.progress == 49)
    runner.close()  # as if it were stopped: the job goes back
    again = jobs.claim("another", 60, videos=True)
    assert again is not None
    assert (again.id, again.progress) == (job.id, 0)
    jobs.tell_progress(job.id, "me", 80)  # its claim is lost
    assert (look_up(jobs, job) or job).progress == 0


@pytest.mark.parametrize("state", ["queued", "finished", "damaged"])
def test_a_deleted_video_is_gone_with_its_files(jobs: WatchedJobs, state: str) -> None:
    job, other, gone = add_video(jobs, "mine"), add_video(jobs, "mine"), list[str]()
    if state == "finished":
        jobs.claim("me", 60, videos=True)
        assert jobs.finish(job.id, "me", [])
    if state == "damaged":
        with sqlite3.connect(jobs.database.name) as writer:
            writer.execute("UPDATE jobs SET body = '{}' WHERE id = ?", (job.id,))
        writer.close()
    assert jobs.delete(job.id, "theirs", gone.append) is False
    assert jobs.delete(job.id, "mine", gone.append) is True
    assert gone == [job.id]
    assert not jobs.exists(job.id)
    assert [one.id for one in jobs.list("mine", video=True)] == [other.id]
    assert jobs.delete(job.id, "mine", gone.append) is False


def test_a_video_that_is_deleted_while_it_is_drawn_stops_and_leaves_no_file(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner]
) -> None:
    clips, job = FakeClips(), add_video(jobs)
    runner = start(FakeEngine(), clips=clips)
    ticket = clips.submitted.get(timeout=PATIENCE)
    assert jobs.delete(job.id, None, lambda _: None)
    runner.wake()
    assert ticket.cancelled.wait(PATIENCE)
    assert store.names() == []


def test_a_video_that_is_deleted_while_its_file_is_stored_leaves_none(
    jobs: WatchedJobs, store: ImageStore, start: Callable[..., JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, job, stored = FakeClips(), add_video(jobs), threading.Event()
    put = store.put

    def put_late(name: str, data: bytes) -> None:
        put(name, data)
        jobs.delete(job.id, None, lambda _: None)
        stored.set()

    monkeypatch.setattr(store, "put", put_late)
    start(FakeEngine(), clips=clips)
    clips.submitted.get(timeout=PATIENCE).draw()
    assert stored.wait(PATIENCE)
    jobs.wait_for(1)
    until(lambda: store.names() == [])


def test_files_of_a_video_are_its_own_and_go_with_it_when_it_is_old(jobs: WatchedJobs) -> None:
    job = add_video(jobs, image="in.png")
    names = [f"{job.id}-video.webp", f"{job.id}-video.mp4"]
    assert jobs.unused(names) == names[1:]
    jobs.claim("me", 60, videos=True)
    jobs.fail(job.id, "me", "It failed.", "server_error")
    gone: list[str] = []
    assert jobs.delete_before(job.created.replace(year=9998), gone.append) == 1
    assert gone == [f"{job.id}-video.webp", "in.png"]
