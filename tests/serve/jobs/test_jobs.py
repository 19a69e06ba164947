"""Jobs outlive the process that took them, and none is done twice by any number of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from sanakit.errors import SettingsError, StorageError
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import MAX_ATTEMPTS, JobStore, new_job_id
from sanakit.serve.jobs.keys import KeyStore
from tests.serve.jobs.accepted import BODY, add

FILE = {"name": "x.png", "metadata": {"seed": "1"}}


@pytest.fixture
def jobs(url: str) -> Iterator[JobStore]:
    store = JobStore(url)
    yield store
    store.close()


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that runs this code."""
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_an_accepted_job_is_there_as_it_came_and_has_an_id_nobody_can_guess(jobs: JobStore) -> None:
    job = jobs.add("edit", BODY | {"prompt": "nul \0, ü, 😀", "image": "in.png"}, "key_a", 2)
    found = jobs.get(job.id, "key_a")
    assert found is not None
    assert (found.body["prompt"], found.body["seed"], found.kind) == ("nul \0, ü, 😀", 2**63 - 1, "edit")
    assert (found.status, found.attempts, found.pictures, found.files) == ("queued", 0, 2, [])
    assert abs(found.created - datetime.now(UTC)) < timedelta(seconds=10)
    assert len(job.id) == len("job_") + 32
    assert job.id != new_job_id()
    assert found.result_names() == [f"{job.id}-0.png", f"{job.id}-1.png"]
    assert found.input_names() == ["in.png"]


def test_a_job_belongs_to_its_key_alone(jobs: JobStore) -> None:
    (mine,) = add(jobs, key_id="key_a")
    for other in ("key_b", None):
        assert jobs.get(mine, other) is None
        assert jobs.list(other) == []
        assert jobs.cancel(mine, other) is False
    found = jobs.get(mine, "key_a")
    assert found is not None
    assert found.status == "queued"


@pytest.mark.parametrize(
    "odd", ["", "job_x", "job_" + "0" * 33, "job_\0" + "0" * 31, "\ud800", "' OR 1=1 --"]
)
def test_a_text_that_is_no_id_names_no_job(jobs: JobStore, odd: str) -> None:
    add(jobs)
    assert jobs.get(odd, None) is None
    assert jobs.list(None, before=odd) == []
    assert jobs.cancel(odd, None) is False
    with pytest.raises(SettingsError, match="not a job id"):
        jobs.add("generation", BODY, None, 1, job_id=odd or "-")


def test_lists_come_newest_first_in_pages(jobs: JobStore) -> None:
    ids = add(jobs, 5)
    add(jobs, 1, key_id="key_a")
    first = [job.id for job in jobs.list(None, 2)]
    then = [job.id for job in jobs.list(None, 10, before=first[-1])]
    assert first + then == ids[::-1]
    assert jobs.list(None, 10, before=new_job_id()) == []


def test_the_oldest_is_claimed_first_and_each_once(jobs: JobStore) -> None:
    ids = add(jobs, 3)
    claimed = [jobs.claim(owner, 60) for owner in "aba"]
    assert [job and job.id for job in claimed] == ids
    assert [job and (job.owner, job.attempts, job.status) for job in claimed] == [
        ("a", 1, "running"),
        ("b", 1, "running"),
        ("a", 1, "running"),
    ]
    assert jobs.claim("c", 60) is None
    assert jobs.held("a") == {ids[0], ids[2]}
    assert jobs.counts() == {"queued": 0, "running": 3, "finished": 0, "failed": 0, "cancelled": 0}


def test_only_the_claims_owner_can_finish_or_fail_and_only_once(jobs: JobStore) -> None:
    first, second = add(jobs, 2)
    assert jobs.finish(first, "a", []) is False  # nobody claimed it
    assert jobs.claim("a", 60)
    assert jobs.finish(first, "b", []) is False
    assert jobs.finish(first, "a", [FILE]) is True
    assert jobs.finish(first, "a", [FILE | {"name": "y.png"}]) is False
    assert jobs.fail(first, "a", "late", "X") is False
    assert jobs.claim("b", 60)
    assert jobs.fail(second, "b", "NUL \0 in it", "NumericsError") is True
    done, failed = jobs.get(first, None), jobs.get(second, None)
    assert done is not None
    assert failed is not None
    assert (done.status, done.files, done.owner) == ("finished", [FILE], None)
    assert (failed.status, failed.error_message, failed.error_type) == (
        "failed",
        "NUL  in it",
        "NumericsError",
    )
    assert jobs.claim("a", 60) is None
    assert jobs.recover("a") == 0


def test_a_lease_that_is_over_gives_the_job_to_another_and_the_late_one_is_turned_away(
    jobs: JobStore,
) -> None:
    (job,) = add(jobs)
    assert jobs.claim("a", -1)
    assert jobs.claim("a", 60) is None  # it draws it still: no one else took it
    taken = jobs.claim("b", 60)
    assert taken is not None
    assert (taken.id, taken.attempts) == (job, 2)
    assert jobs.finish(job, "a", [FILE]) is False
    assert jobs.finish(job, "b", []) is True


def test_a_renewed_lease_holds_and_a_lost_one_stays_lost(jobs: JobStore) -> None:
    kept, lost = add(jobs, 2)
    assert jobs.claim("a", -1)
    assert jobs.claim("a", -1)
    jobs.renew("a", [kept], 60)
    taken = jobs.claim("b", 60)
    assert taken is not None
    assert taken.id == lost
    jobs.renew("a", [kept, lost], 60)
    assert jobs.held("a") == {kept}
    assert jobs.held("b") == {lost}


def test_a_cancelled_job_is_never_run_and_a_finished_one_not_cancelled(jobs: JobStore) -> None:
    waits, runs, done = add(jobs, 3)
    assert jobs.cancel(waits, None) is True
    assert jobs.claim("a", 60)
    assert jobs.claim("a", 60)
    assert jobs.finish(done, "a", []) is True
    assert jobs.cancel(runs, None) is True
    assert jobs.held("a") == set()
    assert jobs.finish(runs, "a", []) is False
    assert jobs.cancel(done, None) is False
    assert jobs.cancel(runs, None) is False
    assert jobs.claim("a", 60) is None


def test_a_restart_puts_its_own_jobs_back_at_once_and_leaves_those_of_a_living_server(jobs: JobStore) -> None:
    add(jobs, 3)
    mine, theirs, expired = jobs.claim("a", 60), jobs.claim("b", 60), jobs.claim("c", -1)
    assert mine
    assert theirs
    assert expired
    assert jobs.recover("a") == 2
    assert jobs.held("b") == {theirs.id}
    again = [jobs.claim("a", 60), jobs.claim("a", 60)]
    assert [job and job.id for job in again] == [mine.id, expired.id]


def test_a_job_that_kills_the_process_fails_after_three_times(jobs: JobStore) -> None:
    (deadly,) = add(jobs)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = jobs.claim("a", 60)
        assert job is not None
        assert job.attempts == attempt
        assert jobs.recover("a") == (1 if attempt < MAX_ATTEMPTS else 0)
    assert jobs.claim("a", 60) is None
    failed = jobs.get(deadly, None)
    assert failed is not None
    assert failed.status == "failed"
    assert "3 times" in str(failed.error_message)


def test_a_released_job_has_lost_no_attempt(jobs: JobStore) -> None:
    add(jobs)
    for _ in range(2 * MAX_ATTEMPTS):
        job = jobs.claim("a", 60)
        assert job is not None
        assert job.attempts == 1
        jobs.release("a", [job.id])


def test_expiry_deletes_pictures_before_rows_and_only_of_ended_jobs(jobs: JobStore) -> None:
    ended, waits = add(jobs, 2)
    assert jobs.claim("a", 60)
    assert jobs.finish(ended, "a", [])
    later = datetime.now(UTC) + timedelta(seconds=1)

    def broken(name: str) -> None:
        raise StorageError("the store is gone")

    with pytest.raises(StorageError):
        jobs.delete_before(later, broken)
    assert jobs.get(ended, None)  # so that the next try finds the images

    deleted: list[str] = []
    assert jobs.delete_before(later - timedelta(days=1), deleted.append) == 0
    assert jobs.delete_before(later, deleted.append) == 1
    assert deleted == [f"{ended}-0.png"]
    assert [job.id for job in jobs.list(None)] == [waits]


CLAIM_ALL = """
import sys
from sanakit.serve.jobs.jobs import JobStore
url, owner = sys.argv[1:]
jobs = JobStore(url)
print("ready", flush=True)
sys.stdin.readline()
while job := jobs.claim(owner, 60):
    print(job.id, jobs.finish(job.id, owner, []), flush=True)
"""


def test_two_processes_that_claim_at_once_share_200_jobs_and_do_none_twice(jobs: JobStore, url: str) -> None:
    ids = add(jobs, 200)
    words = [sys.executable, "-c", CLAIM_ALL, url]
    pipe = subprocess.PIPE
    both = [subprocess.Popen([*words, owner], stdin=pipe, stdout=pipe, text=True) for owner in "ab"]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [line.split() for process in both for line in process.communicate(timeout=60)[0].splitlines()]
    assert all(said == "True" for _, said in lines)
    assert sorted(job for job, _ in lines) == sorted(ids)
    assert jobs.counts()["finished"] == 200


HOLD = """
import sys, time
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore
url, folder = sys.argv[1:]
place, jobs = Instance(folder), JobStore(url)
done, held, also = (jobs.claim(place.name, 3600) for _ in range(3))
jobs.finish(done.id, place.name, [])
print(place.name, done.id, held.id, also.id, flush=True)
time.sleep(600)
"""


def test_jobs_of_a_process_killed_with_minus_9_are_finished_by_the_next_one_once(
    jobs: JobStore, url: str, tmp_path: Path
) -> None:
    ids = add(jobs, 4)
    process = child(HOLD, url, str(tmp_path / "data"))
    assert process.stdout is not None
    name, done, *held = process.stdout.readline().split()
    beside = Instance(tmp_path / "data")
    assert beside.name != name  # it lives still
    beside.close()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    place = Instance(tmp_path / "data")
    assert place.name == name
    assert jobs.recover(place.name) == 2
    finished = []
    while job := jobs.claim(place.name, 60):
        assert job.attempts == (2 if job.id in held else 1)
        assert jobs.finish(job.id, place.name, [])
        finished.append(job.id)
    place.close()
    assert [done, *finished] == ids


def test_a_server_beside_another_has_its_own_name_and_keeps_it(tmp_path: Path) -> None:
    first, second = Instance(tmp_path), Instance(tmp_path)
    names = first.name, second.name
    assert names[0] != names[1]
    first.close()
    second.close()
    again = Instance(tmp_path), Instance(tmp_path)
    assert (again[0].name, again[1].name) == names
    for place in again:
        place.close()


def test_what_is_of_no_job_is_found_by_its_name(jobs: JobStore) -> None:
    (plain,) = add(jobs)
    edit_id = new_job_id()
    own = f"{edit_id}-image-1.png"
    jobs.add("edit", BODY | {"image": own}, None, 2, job_id=edit_id)
    used = [f"{plain}-0.png", f"{edit_id}-0.png", f"{edit_id}-1.png", own]
    unused = [f"{plain}-1.png", f"{edit_id}-image-2.png", f"{edit_id}-2.png", f"{new_job_id()}-image-1.png"]
    foreign = ["page-1.png", "image_1.png", "job_.png", "job_x-0.png"]
    assert sorted(jobs.unused([*used, *unused, *foreign])) == sorted(unused)
    assert jobs.unused([]) == []
    many = [f"{new_job_id()}-0.png" for _ in range(1001)]
    assert sorted(jobs.unused([*many, *used])) == sorted(many)


def test_the_images_of_a_job_that_failed_do_not_count_for_its_keys_day(jobs: JobStore) -> None:
    keys = KeyStore(jobs.database)
    key = keys.verify(keys.create("ann"))
    assert key is not None

    def used() -> int:
        return keys.used(datetime.now(UTC).date())[key.id]

    assert keys.spend(key, 7, datetime.now(UTC)) is None
    ids = [jobs.add("generation", BODY, key.id, 2).id for _ in range(3)]
    for expected, error in ((5, "NumericsError"), (5, "RefusedError")):
        job = jobs.claim("a", 60)
        assert job is not None
        assert not jobs.fail(job.id, "b", "another's claim", error)
        assert jobs.fail(job.id, "a", "why", error)
        assert not jobs.fail(job.id, "a", "why", error)  # it is over, and taken back once
        assert used() == expected
    for _ in range(MAX_ATTEMPTS):  # the server is killed with it each time
        assert used() == 5
        assert jobs.claim("a", 60)
        jobs.recover("a")
    found = jobs.get(ids[2], key.id)
    assert found is not None
    assert (found.status, used()) == ("failed", 3)
