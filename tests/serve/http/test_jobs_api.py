"""Jobs over HTTP: accepted, drawn, listed, cancelled, repeated, and whose they are."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import MemoryLimitError, OutputError, StorageError
from sanakit.serve.http.stored_images_api import new_name
from sanakit.serve.jobs.database import Database, now
from sanakit.serve.server import delete_before

Make = Callable[..., Any]
SMALL = {"prompt": "a red apple", "size": "64x64", "steps": 2}


def add(parts: Any, key: str | None = None, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return parts.client.post("/v1/jobs", json=SMALL | body, headers=headers)


def settled(parts: Any, address: str) -> dict[str, Any]:
    """Wait for the job's end; the runner of the test has nothing else to do."""
    if not parts.runner.alive:
        parts.runner.start()
    until = time.monotonic() + 20
    while (job := parts.client.get(address).json())["status"] in ("queued", "running"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return job


def test_a_job_is_accepted_drawn_and_its_pictures_have_addresses(parts: Any) -> None:
    answer = add(parts, n=2, seed=3)
    assert answer.status_code == 202
    assert answer.headers["Location"].endswith(f"/v1/jobs/{answer.json()['id']}")
    assert (answer.json()["status"], answer.json()["data"]) == ("queued", [])
    job = settled(parts, answer.headers["Location"])
    assert (job["status"], job["error"]) == ("finished", None)
    assert job["created"] <= job["started"] <= job["ended"]
    assert [one["metadata"]["seed"] for one in job["data"]] == [3, 4]
    assert all(
        Image.open(io.BytesIO(parts.client.get(one["url"]).content)).size == (64, 64) for one in job["data"]
    )


def test_a_job_draws_with_its_kind_of_guidance_and_its_weights(parts: Any) -> None:
    own = {"prompt": "a (red:4) apple", "prompt_weights": True, "guidance_kind": "apg,limit=2", "seed": 1}
    answer = add(parts, **own)
    assert own.items() <= answer.json()["request"].items()
    drawn = settled(parts, answer.headers["Location"])["data"][0]["metadata"]
    assert {**own, "steps": 2}.items() <= drawn.items()
    plain = settled(parts, add(parts, seed=1).headers["Location"])
    assert not {"prompt_weights", "guidance_kind"} & plain["data"][0]["metadata"].keys()


def test_an_edit_is_a_job_too_and_its_upload_has_no_address(parts: Any) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (0, 0, 48, 64))
    files = {}
    for name, image in (("image", noise), ("mask", mask)):
        files[name] = io.BytesIO()
        image.save(files[name], "PNG")
        files[name].seek(0)
    answer = parts.client.post("/v1/jobs/edits", files=files, data={"prompt": "a red apple", "steps": "2"})
    assert answer.status_code == 202
    job = settled(parts, answer.headers["Location"])
    drawn = np.asarray(Image.open(io.BytesIO(parts.client.get(job["data"][0]["url"]).content)))
    assert (drawn[:, 48:] == np.asarray(noise)[:, 48:]).all()
    assert (drawn[:, :48] != np.asarray(noise)[:, :48]).mean() > 0.5
    assert parts.client.get(f"/v1/pictures/{job['request']['image']}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True},
        {"partial_images": 1},
        {"response_format": "b64_json"},
        {"output_format": "jpeg"},
        {"deadline": 3},
        {"size": "1x1"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_no_job_can_be_is_400_at_once(parts: Any, body: dict[str, Any]) -> None:
    assert add(parts, **body).status_code == 400


def test_an_unknown_model_is_404_at_once(parts: Any) -> None:
    assert add(parts, model="dall-e-3").status_code == 404


def test_the_newest_jobs_are_listed_page_by_page(parts: Any) -> None:
    ids = [add(parts).json()["id"] for _ in range(5)]
    first = parts.client.get("/v1/jobs", params={"limit": 3}).json()
    second = parts.client.get("/v1/jobs", params={"limit": 3, "before": first["data"][-1]["id"]}).json()
    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_waiting_job_is_cancelled_once_and_an_ended_one_is_not(parts: Any) -> None:
    waiting = add(parts).headers["Location"]
    assert parts.client.delete(waiting).json()["status"] == "cancelled"
    assert parts.client.delete(waiting).json()["status"] == "cancelled"
    done = add(parts).headers["Location"]
    settled(parts, done)
    answer = parts.client.delete(done)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_ended")


@pytest.mark.parametrize(
    "name", ["job_" + "0" * 32, "x", "..%2f..", "'; DROP TABLE jobs", "%00", "job_" + "0" * 99]
)
def test_a_job_that_is_not_there_is_404(parts: Any, name: str) -> None:
    for answer in (parts.client.get(f"/v1/jobs/{name}"), parts.client.delete(f"/v1/jobs/{name}")):
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]


def test_a_job_belongs_to_its_key(parts: Any) -> None:
    parts.keys.create("none")
    ann, bob = ({"Authorization": f"Bearer {parts.keys.create(name)}"} for name in ("ann", "bob"))
    address = parts.client.post("/v1/jobs", json=SMALL, headers=ann).headers["Location"]
    assert parts.client.get(address, headers=ann).status_code == 200
    assert parts.client.get(address, headers=bob).status_code == 404
    assert parts.client.delete(address, headers=bob).status_code == 404
    assert parts.client.get("/v1/jobs", headers=bob).json()["data"] == []


def test_a_repeated_request_gives_the_same_job_and_another_one_under_its_key_is_409(parts: Any) -> None:
    first, again = add(parts, "order-1"), add(parts, "order-1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert add(parts, "order-2").json()["id"] != first.json()["id"]
    other = add(parts, "order-1", steps=3)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_the_same_idempotency_key_of_two_callers_is_two_jobs(parts: Any) -> None:
    ann, bob = ({"Authorization": f"Bearer {parts.keys.create(name)}"} for name in ("ann", "bob"))
    chosen = {"Idempotency-Key": "order-1"}
    answers = [parts.client.post("/v1/jobs", json=SMALL, headers=who | chosen) for who in (ann, bob, ann)]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    first, other, again = (answer.json()["id"] for answer in answers)
    assert first == again != other
    for who, own in ((ann, first), (bob, other)):
        listed = parts.client.get("/v1/jobs", headers=who).json()["data"]
        assert [job["id"] for job in listed] == [own]


def test_a_repeated_request_is_charged_once(parts: Any) -> None:
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=1)}"}
    assert [add(parts, "order").status_code for _ in range(3)] == [202] * 3
    assert add(parts).status_code == 429


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def add_edit(parts: Any, order: str, **files: str) -> Any:
    """Ask for the edit of images of these colours."""
    body = {"data": {"prompt": "x", "steps": "1"}, "headers": {"Idempotency-Key": order}}
    return parts.client.post("/v1/jobs/edits", files={k: png(v) for k, v in files.items()}, **body)


def test_another_picture_is_another_request_and_never_replaces_the_first(parts: Any) -> None:
    first = add_edit(parts, "order", image="red")
    assert add_edit(parts, "order", image="red").json()["id"] == first.json()["id"]
    assert add_edit(parts, "order", image="blue").status_code == 409
    assert add_edit(parts, "order", image="red", mask="white").status_code == 409
    name = first.json()["request"]["image"]
    assert parts.store.names() == [name]
    assert Image.open(io.BytesIO(parts.store.get(name))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_twins_at_the_same_moment_are_one_job_and_charged_once(
    parts: Any, monkeypatch: pytest.MonkeyPatch, colour: str
) -> None:
    token = parts.keys.create("ann", per_day=2)
    parts.client.headers = {"Authorization": f"Bearer {token}"}
    first = add_edit(parts, "order", image="red").json()
    look_up, looks = parts.jobs.get, []

    def late(*which: Any, **kind: Any) -> Any:  # as if the first were not there yet at the first look
        looks.append(which)
        return look_up(*which, **kind) if len(looks) > 1 else None

    monkeypatch.setattr(parts.jobs, "get", late)
    second = add_edit(parts, "order", image=colour)
    assert second.status_code == (202 if colour == "red" else 409)
    assert colour != "red" or second.json()["id"] == first["id"]
    assert parts.keys.used(now().date()) == {parts.keys.list()[0].id: 1}
    assert parts.store.names() == [first["request"]["image"]]


def test_what_could_not_be_accepted_leaves_no_picture(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any, **__: Any) -> None:
        raise StorageError("The database is locked.")

    monkeypatch.setattr(parts.jobs, "add", locked)
    form = {"files": {"image": png("red")}, "data": {"prompt": "x", "steps": "1"}}
    assert parts.client.post("/v1/jobs/edits", **form).status_code == 503
    assert parts.store.names() == []


def test_more_waiting_jobs_than_allowed_are_503(make_parts: Make) -> None:
    parts = make_parts(max_jobs=2)
    answers = [add(parts) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 503]
    assert answers[2].json()["error"]["code"] == "busy"


def test_a_job_that_fails_says_why_in_openais_form(parts: Any) -> None:
    job_id = parts.jobs.add("generation", {"model": None, "prompt": "x", "width": 1, "height": 1}, None, 1).id
    job = settled(parts, f"/v1/jobs/{job_id}")
    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_size"


def test_a_full_disk_is_503_and_costs_nothing(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=1)}"}

    def full(*_: Any) -> None:
        raise OutputError("/secret/place: no space left")

    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    form = {"files": {"image": file.getvalue()}, "data": {"prompt": "x", "steps": "1"}}
    with monkeypatch.context() as patch:
        patch.setattr(parts.store, "put", full)
        answer = parts.client.post("/v1/jobs/edits", **form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage")
        assert "secret" not in answer.text
    assert parts.client.post("/v1/jobs/edits", **form).status_code == 202


def test_a_job_names_its_model_whatever_a_later_server_takes_by_default(parts: Any) -> None:
    assert add(parts).json()["request"]["model"] == "pocket"


def test_old_pictures_of_no_job_are_deleted_by_their_day(parts: Any) -> None:
    today, other = new_name("png"), "page-1.png"
    old = f"image_{now() - timedelta(days=8):%Y%m%d}_{'0' * 32}.png"
    for name in (today, other, old):
        parts.store.put(name, b"x")
    assert delete_before(parts.store, 7) == 1
    assert set(parts.store.names()) == {today, other}


def test_the_ids_of_idempotent_jobs_can_not_be_guessed_from_what_the_client_chose(
    parts: Any, tmp_path: Path
) -> None:
    same, again = add(parts, "order-1").json()["id"], add(parts, "order-1").json()["id"]
    replica = Database(tmp_path / "jobs.sqlite")
    stranger = Database(tmp_path / "other.sqlite")
    for database in (replica, stranger):
        database.close()
    assert same == again
    assert len(parts.jobs.database.secret) == 64
    assert replica.secret == parts.jobs.database.secret != stranger.secret
    parts.jobs.database.secret = stranger.secret
    assert add(parts, "order-1").json()["id"] != same


def test_a_job_that_was_too_large_does_not_tell_the_operators_remedy(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise MemoryLimitError("256x256 px do not fit in 80 MB: give at least 1 GB.")

    answer = add(parts)
    monkeypatch.setattr(parts.engine, "submit", too_large)
    error = settled(parts, answer.headers["Location"])["error"]
    assert (error["code"], "1 GB" in error["message"]) == ("memory_limit", False)


@pytest.mark.parametrize(("column", "value"), [("pictures", 2**62), ("body", "9999-99-99"), ("files", "[1]")])
def test_a_damaged_row_is_a_failed_job_and_the_list_goes_on(parts: Any, column: str, value: object) -> None:
    ids = [add(parts).json()["id"] for _ in range(3)]
    with sqlite3.connect(parts.jobs.database.name) as other:
        other.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (value, ids[1]))
    other.close()
    listed = parts.client.get("/v1/jobs").json()["data"]
    assert [job["id"] for job in listed] == ids[::-1]
    assert [job["status"] for job in listed] == ["queued", "failed", "queued"]
    told = parts.client.get(f"/v1/jobs/{ids[1]}").json()["error"]["message"]
    assert f"damaged at the job {ids[1]} ({column}" in told
    assert [settled(parts, f"/v1/jobs/{name}")["status"] for name in ids] == [
        "finished",
        "failed",
        "finished",
    ]
