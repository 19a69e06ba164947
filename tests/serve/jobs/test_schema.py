"""A database of the first version is brought up with all that it holds; one of a later version is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import text
from sqlalchemy.engine import Connection

from sanakit.errors import StorageError
from sanakit.serve.jobs import schema
from sanakit.serve.jobs.database import Database, now
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import KeyStore, Limiter

ID = "job_" + "0" * 32
TOKEN = "sk-sana-abc"
# As the servers before the first version with a number made them: never to be changed.
FIRST = """
CREATE TABLE secret (number INTEGER NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY (number));
CREATE TABLE api_keys (
    id VARCHAR NOT NULL, name VARCHAR NOT NULL, digest VARCHAR NOT NULL, hint VARCHAR NOT NULL,
    per_minute INTEGER, per_day INTEGER, created {time} NOT NULL, revoked {time},
    PRIMARY KEY (id), UNIQUE (digest));
CREATE UNIQUE INDEX one_valid_key_a_name ON api_keys (name) WHERE revoked IS NULL;
CREATE TABLE jobs (
    number {counter} NOT NULL, id VARCHAR NOT NULL, kind VARCHAR NOT NULL, body JSON NOT NULL,
    key_id VARCHAR, pictures INTEGER NOT NULL, status VARCHAR NOT NULL, attempts INTEGER NOT NULL,
    owner VARCHAR, lease {time}, created {time} NOT NULL, started {time}, ended {time},
    files JSON NOT NULL, error_type VARCHAR, error_message VARCHAR, PRIMARY KEY (number), UNIQUE (id));
CREATE INDEX ix_jobs_key_id ON jobs (key_id);
CREATE INDEX ix_jobs_status ON jobs (status);
CREATE TABLE usage (
    key_id VARCHAR NOT NULL, day DATE NOT NULL, pictures INTEGER NOT NULL,
    PRIMARY KEY (key_id, day), FOREIGN KEY(key_id) REFERENCES api_keys (id));
INSERT INTO secret VALUES (1, 'the secret');
INSERT INTO api_keys VALUES ('key_1', 'ann',
    'edca3e3905bf2585792e652c72a0a7e95c0d69d25d09c53d668629c8d78974bc', 'sk-sana-abc', 1, 9,
    '2026-11-29 12:00:00.000000', NULL);
INSERT INTO usage VALUES ('key_1', '2026-11-29', 4);
INSERT INTO jobs (number, id, kind, body, key_id, pictures, status, attempts, created, files) VALUES
    (1, '{job}', 'generation', '{{"prompt": "a red apple", "seed": 7}}', 'key_1', 2, 'queued', 0,
    '2026-11-29 12:00:00.000000', '[]');
"""


@pytest.fixture
def first(url: str) -> str:
    """The URL of a database of the first version, of each kind."""
    if "://" in url:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                FIRST.format(time="TIMESTAMP WITH TIME ZONE", counter="SERIAL", job=ID).encode()
            )
        return url
    Path(url).parent.mkdir()
    with sqlite3.connect(url) as connection:
        connection.executescript(FIRST.format(time="DATETIME", counter="INTEGER", job=ID))
    connection.close()
    return url


def version_of(database: Database) -> int | None:
    with database.reading() as session:
        return session.scalar(text("SELECT version FROM schema_version"))


def index_of(database: Database) -> list[str]:
    from sqlalchemy import inspect

    with database.reading() as session:
        return [str(index["name"]) for index in inspect(session.connection()).get_indexes("jobs")]


def test_a_new_database_has_the_latest_version_and_keeps_it(url: str) -> None:
    for _ in range(2):
        database = Database(url)
        assert version_of(database) == 1 + len(schema.STEPS)
        assert sorted(index_of(database)) == ["ix_jobs_ended", "ix_jobs_key_id", "ix_jobs_status"]
        database.close()


def test_a_database_of_the_first_version_is_brought_up_with_all_that_it_holds(first: str) -> None:
    jobs = JobStore(first)
    keys = KeyStore(jobs.database)
    assert version_of(jobs.database) == 1 + len(schema.STEPS)
    assert "ix_jobs_ended" in index_of(jobs.database)
    assert jobs.database.secret == "the secret"
    key = keys.verify(TOKEN)
    assert key is not None
    assert (key.name, key.per_minute, key.per_day) == ("ann", 1, 9)
    assert keys.used(now().date().replace(2026, 11, 29)) == {"key_1": 4}
    job = jobs.claim("a", 60)
    assert job is not None
    assert (job.id, job.body) == (ID, {"prompt": "a red apple", "seed": 7})
    assert jobs.finish(ID, "a", [])
    limiter = Limiter(keys)
    assert limiter.check(key, 1) is None
    assert limiter.check(key, 1) is not None  # what the first version did not keep here
    jobs.close()


def test_a_later_version_is_refused_and_left_alone(url: str) -> None:
    database = Database(url)
    with database.writing() as session:
        session.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(StorageError, match=r"version 99.*upgrade sanakit"):
        Database(url)
    assert version_of(database) == 99
    database.close()


def test_a_column_that_is_missing_is_refused_at_the_start_by_its_name(first: str) -> None:
    database = Database(first)
    with database.writing() as session:
        session.execute(text("ALTER TABLE jobs DROP COLUMN files"))
    with pytest.raises(StorageError, match=r"table jobs .* no column files.*backup"):
        Database(first)
    database.close()


def test_a_table_that_goes_while_the_server_runs_is_not_called_a_matter_of_the_disk(url: str) -> None:
    jobs = JobStore(url)
    with jobs.database.writing() as session:
        session.execute(text("DROP TABLE jobs"))
    with pytest.raises(StorageError, match="restart the server") as told:
        jobs.counts()
    assert "disk" not in str(told.value)
    jobs.close()


def fail(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE half (number INTEGER)"))
    raise StorageError("The step fails.")


@pytest.mark.parametrize("steps", [(fail,), (schema._index_ended, fail)], ids=["first", "second"])
def test_a_step_that_fails_leaves_everything_as_it_was(
    first: str, steps: tuple[Callable[[Connection], None], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", steps)
        with pytest.raises(StorageError, match="The step fails"):
            Database(first)
    database = Database(first)
    with database.reading() as session:
        from sqlalchemy import inspect

        assert "half" not in inspect(session.connection()).get_table_names()
    assert version_of(database) == 1 + len(schema.STEPS)
    database.close()


def test_only_the_steps_above_a_databases_version_are_taken(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(url).close()
    taken: list[str] = []
    later = (*schema.STEPS, lambda connection: taken.append("later"))
    monkeypatch.setattr(
        schema, "STEPS", tuple([lambda c: taken.append("early")] * len(schema.STEPS)) + later[-1:]
    )
    database = Database(url)
    assert taken == ["later"]
    assert version_of(database) == 1 + len(later)
    database.close()
