"""A database that is locked, full, gone or damaged is one exception soon, and nothing stored is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import event
from sqlalchemy.engine import Engine

from sanakit.errors import SanaError, SettingsError, StorageError
from sanakit.serve.jobs.database import Database
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore

WAIT = 0.2  # seconds for a lock
SOON = 2.0  # seconds that a refusal may take then
PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[JobStore]:
    """Jobs in a SQLite file, which wait for locks for a moment only."""
    store = JobStore(Database(tmp_path / "data" / "jobs.sqlite", wait=WAIT))
    yield store
    store.close()


def add(jobs: JobStore, count: int = 1) -> list[str]:
    return [jobs.add("generation", {"prompt": "a red apple", "seed": 7}, None, 1).id for _ in range(count)]


def file_of(jobs: JobStore) -> Path:
    return Path(jobs.database.name)


def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="permissions"):
        Instance(tmp_path / "file" / "data")
    with pytest.raises(StorageError, match="permissions"):
        JobStore(tmp_path / "file" / "jobs.sqlite")
    with pytest.raises(StorageError, match="directory"):
        JobStore(tmp_path)


def test_a_database_locked_by_another_is_an_error_soon_and_reading_goes_on(impatient: JobStore) -> None:
    (job,) = add(impatient)
    other = sqlite3.connect(file_of(impatient), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StorageError, match="locked"):
        add(impatient)
    with pytest.raises(StorageError, match="locked"):
        impatient.claim("a", 60)
    assert time.monotonic() - began < 2 * SOON
    assert impatient.get(job, None)
    impatient.ping()
    other.execute("ROLLBACK")
    other.close()
    assert impatient.claim("a", 60)


def test_threads_write_in_the_order_of_asking(tmp_path: Path) -> None:
    database, order = Database(tmp_path / "jobs.sqlite"), []

    def write(number: int) -> None:
        with database.writing():
            order.append(number)

    with ThreadPoolExecutor(7) as threads:
        with database.writing():
            asked = []
            for number in range(7):
                asked.append(threads.submit(write, number))
                while len(database._turn._waiting) <= number:
                    time.sleep(0.001)
        for one in asked:
            one.result()
    assert order == list(range(7))
    database.close()


def test_threads_that_wait_too_long_for_one_another_are_told(impatient: JobStore) -> None:
    with impatient.database.writing(), ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        with pytest.raises(StorageError, match="too many wait"):
            thread.submit(add, impatient).result()
        assert time.monotonic() - began < SOON
    assert len(add(impatient)) == 1


def test_a_folder_that_is_gone_is_an_error_and_nothing_is_lost_when_it_is_back(impatient: JobStore) -> None:
    (job,) = add(impatient)
    folder = file_of(impatient).parent
    aside = folder.with_name("aside")
    folder.rename(aside)
    for call in (impatient.ping, lambda: add(impatient), lambda: impatient.claim("a", 60), impatient.counts):
        with pytest.raises(StorageError, match="removed"):
            call()
    aside.rename(folder)
    claimed = impatient.claim("a", 60)
    assert claimed is not None
    assert claimed.id == job


def test_a_database_that_was_replaced_is_not_written_to(impatient: JobStore) -> None:
    add(impatient)
    copy = file_of(impatient).with_suffix(".copy")
    shutil.copy(file_of(impatient), copy)
    copy.replace(file_of(impatient))
    with pytest.raises(StorageError, match="replaced"):
        add(impatient)


@pytest.mark.parametrize("left", [0, 50, 5000])
def test_a_truncated_database_is_an_error_and_never_an_empty_list(impatient: JobStore, left: int) -> None:
    add(impatient, 50)
    with sqlite3.connect(file_of(impatient)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    os.truncate(file_of(impatient), left)
    for call in (lambda: impatient.list(None), impatient.ping, lambda: impatient.claim("a", 60)):
        with pytest.raises(StorageError):
            call()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"my diary " * 1000)
    with pytest.raises(StorageError, match="not a database"):
        JobStore(path)
    assert path.read_bytes() == b"my diary " * 1000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_database_that_may_not_be_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    JobStore(path).close()
    path.chmod(0)
    with pytest.raises(StorageError, match="permissions"):
        JobStore(path)


def test_a_full_disk_refuses_new_jobs_and_keeps_the_old_ones(tmp_path: Path) -> None:
    def small_disk(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 40")  # SQLite then fails as on a full disk

    event.listen(Engine, "connect", small_disk)
    try:
        jobs = JobStore(tmp_path / "jobs.sqlite")
        accepted = []
        with pytest.raises(StorageError, match="full"):
            accepted.extend(jobs.add("generation", {"prompt": "x" * 10_000}, None, 1).id for _ in range(100))
    finally:
        event.remove(Engine, "connect", small_disk)
    assert 1 < len(accepted) < 100
    assert [job.id for job in jobs.list(None, 100)] == accepted[::-1]
    jobs.close()
    larger = JobStore(tmp_path / "jobs.sqlite")
    assert larger.counts()["queued"] == len(accepted)
    add(larger)
    larger.close()


def test_messages_never_hold_a_prompt_or_a_password(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "jobs.sqlite")
    job = jobs.add("generation", {"prompt": "SECRET"}, None, 1)
    with pytest.raises(StorageError) as taken:
        jobs.add("generation", {"prompt": "SECRET"}, None, 1, job_id=job.id)
    jobs.close()
    with pytest.raises(SanaError) as unreachable:
        JobStore(Database("postgresql://someone:SECRET@127.0.0.1:1/none", wait=WAIT))
    with pytest.raises(SettingsError) as foreign:
        JobStore("mysql://someone:SECRET@127.0.0.1/none")
    for error in (taken, unreachable, foreign):
        assert "SECRET" not in str(error.value)
        assert error.value.__cause__ is None


@pytest.mark.parametrize("odd", ["sqlite://", "sqlite:///:memory:", "://", "http://x", "oracle://x/y", ""])
def test_a_url_of_no_lasting_database_is_refused(odd: str) -> None:
    with pytest.raises(SettingsError, match="PATH"):
        JobStore(odd)


def test_the_file_is_for_its_owner_alone_and_every_commit_reaches_the_disk(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "data" / "jobs.sqlite")
    add(jobs)
    for path in (tmp_path / "data").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with jobs.database.writing() as session:
        connection = session.connection()
        values = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS}
    assert values == PRAGMAS
    jobs.close()


@pytest.mark.slow
def test_a_postgresql_server_that_dies_is_an_error_soon_and_jobs_go_on_when_it_is_back(
    postgresql: str,
) -> None:
    import psycopg

    jobs = JobStore(Database(postgresql, wait=1))
    (job,) = add(jobs)
    with psycopg.connect(postgresql, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    claimed = jobs.claim("a", 60)  # a broken connection is noticed before it is used
    assert claimed is not None
    assert claimed.id == job
    with psycopg.connect(postgresql) as other:
        other.execute("LOCK TABLE jobs")
        began = time.monotonic()
        with pytest.raises(StorageError, match="timeout"):
            jobs.ping()
        assert time.monotonic() - began < 1 + SOON
    jobs.ping()
    jobs.close()


def test_all_servers_of_a_database_share_a_secret_that_no_other_database_has(
    url: str, tmp_path: Path
) -> None:
    opened = [Database(url), Database(url), Database(tmp_path / "other.sqlite")]
    for database in opened:
        database.close()
    first, second, other = (database.secret for database in opened)
    assert first == second != other
    assert len(first) == len(other) == 64


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("secret", "value", ""), ("secret", "value", b"\xff"), ("schema_version", "version", "x")]
    + [("schema_version", "version", 0), ("schema_version", "version", 1.5)],
)
def test_a_damaged_secret_or_version_is_told_at_the_start(
    tmp_path: Path, table: str, column: str, value: object
) -> None:
    path = tmp_path / "jobs.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE {table} SET {column} = ?", (value,))
    other.close()
    with pytest.raises(StorageError, match=f"{table.partition('_')[2] or table}.* damaged|damaged .*version"):
        Database(path)


def test_a_schema_with_names_that_are_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode = DELETE")
    other.close()
    content = path.read_bytes()
    assert b"CREATE TABLE jobs" in content
    path.write_bytes(content.replace(b"CREATE TABLE jobs", b"CREATE TABLE \xa0obs"))
    with pytest.raises(StorageError, match="damaged"):
        Database(path)
