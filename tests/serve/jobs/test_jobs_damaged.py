"""A damaged row of a job is told in a sentence, and the other jobs go on."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from sanakit.serve.jobs.jobs import JobStore
from tests.serve.jobs.accepted import add


def spoil(jobs: JobStore, number: int, column: str, value: object) -> None:
    """Write into a row what sanakit never writes."""
    with sqlite3.connect(jobs.database.name) as other:
        torn = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
        other.execute(f"UPDATE jobs SET {column} = {torn} WHERE number = ?", (value, number))
    other.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ended", ""),
        ("created", "9999-99-99"),
        ("pictures", 1.5),
        ("pictures", 2**62),
        ("pictures", -1),
        ("body", "9999-99-99"),
        ("body", "[]"),
        ("body", '{"image": 7}'),
        ("body", "{" * 100_000),
        ("files", '[{"name": "x"}]'),
        ("files", '{"a": 1}'),
        ("kind", "x"),
        ("kind", b"\xff\xfe"),
        ("error_message", b"\xed\xa0\xbd"),
    ],
)
def test_a_row_that_makes_no_sense_fails_in_a_sentence_and_the_others_go_on(
    tmp_path: Path, column: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = JobStore(tmp_path / "jobs.sqlite")
    before, broken, after = add(jobs, 3)
    spoil(jobs, 2, column, value)
    assert [job.id for job in jobs.list(None)] == [after, broken, before]
    claimed = [job.id for _ in range(2) if (job := jobs.claim("me", 60)) is not None]
    assert claimed == [before, after]
    found = jobs.get(broken, None)
    assert found is not None
    assert (found.status, found.error_type) == ("failed", "server_error")
    assert f"damaged at the job {broken} ({column}" in (found.error_message or "")
    assert "ask for its images again" in (found.error_message or "")
    assert [record.getMessage().count(broken) for record in caplog.records] == [1]  # told once
    jobs.close()


def test_images_and_rows_of_a_damaged_job_are_left_alone(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "jobs.sqlite")
    sound, broken = add(jobs, 2)
    for _ in range(2):
        jobs.claim("me", 60)
    for job in (sound, broken):
        jobs.finish(job, "me", [])
    spoil(jobs, 2, "pictures", 2**62)
    names = [f"{job}-{n}.png" for job in (sound, broken) for n in range(2)]
    assert jobs.unused(names) == [f"{sound}-1.png"]
    gone: list[str] = []
    assert jobs.delete_before(datetime.now(UTC) + timedelta(days=1), gone.append) == 1
    assert gone == [f"{sound}-0.png"]
    assert [job.id for job in jobs.list(None)] == [broken]
    jobs.close()


@pytest.mark.parametrize("lease", [None, b"\xff", "x", "9999-12-31 00:00:00.000000", -1, ""])
@pytest.mark.parametrize("owner", [None, "another"])
def test_a_running_job_whose_lease_makes_no_sense_is_not_stuck(
    tmp_path: Path, lease: object, owner: str | None
) -> None:
    jobs = JobStore(tmp_path / "jobs.sqlite")
    (job,) = add(jobs)
    jobs.claim("another", 60)
    spoil(jobs, 1, "lease", lease)
    spoil(jobs, 1, "owner", owner)
    again = jobs.claim("me", 60)
    assert again is not None
    assert (again.id, again.owner) == (job, "me")
    jobs.close()


def test_a_status_that_makes_no_sense_is_told_and_not_counted(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "jobs.sqlite")
    (job,) = add(jobs)
    spoil(jobs, 1, "status", "x")
    assert set(jobs.counts().values()) == {0}
    found = jobs.get(job, None)
    assert found is not None
    assert "status" in (found.error_message or "")
    assert jobs.claim("me", 60) is None
    jobs.close()
