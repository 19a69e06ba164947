"""Videos over HTTP: OpenAI's client makes them; whose they are; listed, fetched, deleted."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import open_clip
from sanakit.errors import StorageError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.serve.http.videos import videos_api
from sanakit.serve.jobs.clip_files import clip_file
from sanakit.serve.jobs.database import now
from tests.serve.http.videos.asking import SMALL, WAIT, add, settled

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def client_of(parts: Any, key: str = "none") -> openai.OpenAI:
    parts.client.headers.pop("Authorization", None)
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key=key, http_client=parts.client, max_retries=0)


def read(data: bytes, folder: Path) -> VideoClip:
    path = folder / "clip"
    path.write_bytes(data)
    with open_clip(path) as file:
        return file.read()


@pytest.mark.thorough
def test_openais_client_makes_polls_fetches_lists_and_deletes_a_video(parts: Any, tmp_path: Path) -> None:
    client, size = client_of(parts), {"size": "64x64"}
    parts.runner.start()
    create: Any = client.videos.create_and_poll
    video = create(
        prompt="a red apple", seconds="0.25", **size, poll_interval_ms=20, extra_body={"seed": 7, "steps": 1}
    )
    assert isinstance(video, openai.types.Video)
    assert (video.status, video.progress, video.error, video.object) == ("completed", 100, None, "video")
    assert (video.seconds, video.size, video.model, video.prompt) == (
        "0.25",
        "64x64",
        "tiny-video",
        "a red apple",
    )
    assert video.completed_at is not None
    assert video.created_at <= video.completed_at
    fetched = client.videos.download_content(video.id)
    clip = read(fetched.content, tmp_path)
    assert clip.settings["seed"] == 7
    small = {"prompt": "a red apple", "frames": 5, "width": 64, "height": 64, "steps": 1}
    drawn = [parts.clips.submit(parts.clips.check(None, **small, seed=seed)) for seed in (7, 8)]
    wanted, other = (ticket.result(WAIT) for ticket in drawn)
    assert clip.settings == wanted.metadata[0]
    files = [
        read(
            clip_file(one.clips[0], "mp4" if fetched.content[4:8] == b"ftyp" else "webp")[0], tmp_path
        ).frames
        for one in (wanted, other)
    ]
    assert [np.array_equal(clip.frames, frames) for frames in files] == [True, False]
    assert [one.id for one in client.videos.list(limit=5)] == [video.id]
    assert client.videos.delete(video.id).deleted is True
    assert list(client.videos.list()) == []
    with pytest.raises(openai.NotFoundError, match="no such video"):
        client.videos.retrieve(video.id)


def test_a_clip_begins_with_the_image_that_came_which_has_no_address(parts: Any, photo: bytes) -> None:
    form = {name: str(value) for name, value in SMALL.items() if name != "size"}
    answer = parts.client.post("/v1/videos", data=form, files={"input_reference": ("a.png", photo)})
    video = settled(parts, answer.json()["id"])
    assert (video["status"], video["size"]) == ("completed", "96x64")
    (file,) = parts.jobs.get(video["id"], None, video=True).files
    assert file["metadata"]["begins_with"] == "an image"
    stored = Image.open(io.BytesIO(parts.store.get(video["request"]["image"])))
    assert (stored.size, stored.getpixel((0, 0))) == ((96, 64), (0, 128, 128))
    for name in (video["request"]["image"], file["name"]):
        assert parts.client.get(f"/v1/pictures/{name}").status_code == 404
    assert parts.client.delete(f"/v1/videos/{video['id']}").status_code == 200
    assert parts.store.names() == []


@pytest.mark.parametrize("format", ["mp4", "webp"])
def test_a_file_has_its_own_type_and_is_sent_in_parts(
    parts: Any, monkeypatch: pytest.MonkeyPatch, format: str, tmp_path: Path
) -> None:
    if format == "mp4":
        pytest.importorskip("av")
    monkeypatch.setattr(videos_api, "usual_format", lambda: format)
    video = settled(parts, add(parts).json()["id"])
    assert video["format"] == format
    address = f"/v1/videos/{video['id']}/content"
    whole = parts.client.get(address)
    assert whole.headers["content-type"] == {"mp4": "video/mp4", "webp": "image/webp"}[format]
    assert read(whole.content, tmp_path).frames.shape == (5, 64, 64, 3)
    part = parts.client.get(address, headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, whole.content[4:10])
    assert parts.client.get(address, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert parts.client.head(address).headers["content-length"] == str(len(whole.content))
    assert parts.client.get(address, params={"variant": "thumbnail"}).status_code == 400


def test_a_file_that_is_not_there_says_why(parts: Any) -> None:
    waiting = add(parts).json()["id"]
    answer = parts.client.get(f"/v1/videos/{waiting}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "video_not_ready")
    job = parts.jobs.claim("other", 60, videos=True)
    parts.jobs.fail(job.id, "other", "It went wrong.", "NumericsError")
    answer = parts.client.get(f"/v1/videos/{waiting}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "video_failed")
    assert "It went wrong." in answer.json()["error"]["message"]
    failed = parts.client.get(f"/v1/videos/{waiting}").json()
    assert (failed["status"], failed["error"]["code"], failed["completed_at"]) == ("failed", "numerics", None)
    large = add(parts).json()["id"]
    job = parts.jobs.claim("other", 60, videos=True)
    parts.jobs.fail(job.id, "other", "They do not fit in 1 MB: allow at least 9 GB.", "MemoryLimitError")
    error = parts.client.get(f"/v1/videos/{large}/content").json()["error"]
    assert (error["code"], "fewer frames" in error["message"]) == ("video_failed", True)
    assert "9 GB" not in error["message"], "that remedy is the operator's"
    done = settled(parts, add(parts).json()["id"])["id"]
    for name in parts.store.names():
        parts.store.delete(name)
    answer = parts.client.get(f"/v1/videos/{done}/content")
    assert (answer.status_code, "no longer stored" in answer.json()["error"]["message"]) == (404, True)


def test_progress_is_told_and_a_running_video_that_is_deleted_stops_within_a_step(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is held at its third step of nine, and would go on for ever."""
    reached, opened, calls, whole = threading.Event(), threading.Event(), [0], SanaVideo.velocity

    def held(*inputs: Any, **options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 3:
            reached.set()
            assert opened.wait(WAIT)
        return whole(*inputs, **options)

    monkeypatch.setattr(SanaVideo, "velocity", held)
    before = parts.clips.stats()["stopped"]
    video_id = add(parts, steps=9, guidance=1.0).json()["id"]
    assert parts.client.get(f"/v1/videos/{video_id}").json()["progress"] == 0
    parts.runner.start()
    assert reached.wait(WAIT)
    parts.runner.wake()
    try:
        for _ in range(int(WAIT / 0.05)):
            video = parts.client.get(f"/v1/videos/{video_id}").json()
            if video["progress"]:
                break
            threading.Event().wait(0.05)
        assert (video["status"], video["progress"]) == ("in_progress", 99 * 2 // 9)
        assert parts.client.delete(f"/v1/videos/{video_id}").json() == {
            **{"id": video_id, "object": "video.deleted", "deleted": True}
        }
        parts.runner.wake()
        for _ in range(int(WAIT / 0.05)):
            if not parts.runner._held:
                break
            threading.Event().wait(0.05)
    finally:
        opened.set()
    for _ in range(int(WAIT / 0.05)):
        if parts.clips.stats()["stopped"] > before:
            break
        threading.Event().wait(0.05)
    assert parts.clips.stats()["stopped"] == before + 1
    assert calls[0] == 3
    assert parts.client.get(f"/v1/videos/{video_id}").status_code == 404
    assert parts.store.names() == []


def test_the_videos_of_a_key_are_its_own(parts: Any) -> None:
    ann, bob = ({"Authorization": f"Bearer {parts.keys.create(name)}"} for name in ("ann", "bob"))
    video_id = add(parts, ann).json()["id"]
    address = f"/v1/videos/{video_id}"
    for method, path in (("GET", address), ("GET", f"{address}/content"), ("DELETE", address)):
        assert parts.client.request(method, path, headers=bob).status_code == 404
        assert parts.client.request(method, path).status_code == 401
    assert parts.client.get("/v1/videos", headers=bob).json()["data"] == []
    assert parts.client.get("/v1/videos", headers=bob, params={"after": video_id}).json()["data"] == []
    assert [one["id"] for one in parts.client.get("/v1/videos", headers=ann).json()["data"]] == [video_id]
    assert settled(parts, video_id, ann)["status"] == "completed"
    assert parts.client.get(f"{address}/content", headers=bob).status_code == 404
    assert parts.client.get(f"{address}/content", headers=ann).status_code == 200


def test_jobs_and_videos_have_addresses_of_their_own(parts: Any) -> None:
    video, job = add(parts).json()["id"], parts.client.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
    for method in ("GET", "DELETE"):
        assert parts.client.request(method, f"/v1/jobs/{video}").status_code == 404
        assert parts.client.request(method, f"/v1/videos/{job}").status_code == 404
    assert [one["id"] for one in parts.client.get("/v1/jobs").json()["data"]] == [job]
    assert [one["id"] for one in parts.client.get("/v1/videos").json()["data"]] == [video]
    assert parts.jobs.counts()["queued"] == 2


def test_videos_are_listed_page_by_page_in_either_order(parts: Any) -> None:
    ids = [add(parts, seed=seed).json()["id"] for seed in range(5)]

    def pages(order: str) -> list[str]:
        found, after = [], {}
        while True:
            page = parts.client.get("/v1/videos", params={"limit": 2, "order": order} | after).json()
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            found += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                return found
            after = {"after": page["last_id"]}

    assert (pages("desc"), pages("asc")) == (ids[::-1], ids)
    assert [one.id for one in client_of(parts).videos.list(limit=2, order="asc")] == ids
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert parts.client.get("/v1/videos", params={"after": ids[0]}).json() == empty
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}):
        assert parts.client.get("/v1/videos", params=wrong).status_code == 400


def test_a_repeated_request_gives_the_same_video_and_is_charged_once(parts: Any, photo: bytes) -> None:
    who = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=3)}", "Idempotency-Key": "order"}
    ids = {add(parts, who).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    other = add(parts, who, steps=2)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    job = parts.client.post("/v1/jobs", json={"prompt": "x"}, headers=who)
    assert (job.status_code, job.json()["id"] in ids) == (202, False)
    assert list(parts.keys.used(now().date()).values()) == [2 + 1]  # latents of five frames, and an image
    assert add(parts, who | {"Idempotency-Key": "another"}).status_code == 429


def test_a_video_that_fails_is_not_charged(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    who = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=3)}"}  # of two clips, one

    def locked(*_: Any, **__: Any) -> None:
        raise StorageError("The database is locked.")

    with monkeypatch.context() as patch:
        patch.setattr(parts.jobs, "add", locked)
        assert add(parts, who).status_code == 503
    video_id = add(parts, who).json()["id"]
    job = parts.jobs.claim("other", 60, videos=True)
    parts.jobs.fail(job.id, "other", "It went wrong.", "server_error")
    assert parts.client.get(f"/v1/videos/{video_id}", headers=who).json()["error"]["code"] == "internal_error"
    assert parts.keys.used(now().date()) == dict.fromkeys(parts.keys.used(now().date()), 0)  # all of it
    assert add(parts, who).status_code == 200
    assert add(parts, who).status_code == 429


def test_a_full_queue_and_a_stopping_server_are_503(make_parts: Callable[..., Any], clip_engine: Any) -> None:
    parts = make_parts(clips=clip_engine, max_jobs=1)
    assert [add(parts).status_code for _ in range(2)] == [200, 503]
    parts.draining.set()
    assert add(parts).json()["error"]["code"] == "closing"


def test_a_damaged_row_is_a_failed_video_and_can_be_deleted(parts: Any) -> None:
    video_id = add(parts).json()["id"]
    with sqlite3.connect(parts.jobs.database.name) as other:
        other.execute("UPDATE jobs SET body = '{\"prompt\": 7}' WHERE id = ?", (video_id,))
    other.close()
    for video in (
        parts.client.get(f"/v1/videos/{video_id}").json(),
        parts.client.get("/v1/videos").json()["data"][0],
    ):
        assert (video["status"], "damaged" in video["error"]["message"]) == ("failed", True)
    assert parts.client.delete(f"/v1/videos/{video_id}").json()["deleted"] is True


def test_clips_are_counted(parts: Any) -> None:
    def figure(name: str) -> float:
        lines = parts.client.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    before = figure("sana_clip_engine_clips_total"), figure("sana_clip_engine_steps_total")
    settled(parts, add(parts, steps=2).json()["id"])
    assert figure("sana_clip_engine_clips_total") == before[0] + 1
    assert figure("sana_clip_engine_steps_total") == before[1] + 2


@pytest.mark.parametrize("name", ["job_" + "0" * 32, "x", "%00", "video_" + "0" * 99, "..%2f.."])
def test_a_video_that_is_not_there_is_404(parts: Any, name: str) -> None:
    for method, path in (("GET", name), ("DELETE", name), ("GET", f"{name}/content")):
        answer = parts.client.request(method, f"/v1/videos/{path}")
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]
