"""Bad databases of the server: damaged files, other schemas, strange rows, and strange names asked for."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bad_inputs.trial import WEIRD, Attempt, Wrong

TABLES = ("jobs", "jobs", "api_keys", "secret", "usage", "key_requests", "schema_version")
CELLS = (
    *(None, "", "x", -1, 0, 2**62, 2**63 - 1, 1.5, 1e308, float("inf"), b"\xff\x00", b"", "\0", "é" * 300),
    *(
        "{",
        "[]",
        '{"a":',
        "null",
        '{"a": NaN}',
        '{"a": "\\ud83d"}',
        "[" * 100_000,
        '{"image": 7}',
        '[{"name": 7}]',
    ),
    *(
        "9999-99-99",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59.999999",
        "queued",
        "running",
        "finished",
        "failed",
    ),
)
TORN = b"\xed\xa0\xbd"  # half of a character, written as text


@dataclass(frozen=True)
class Ready:
    """A database with jobs and a key, and the key's token."""

    file: Path
    token: str
    kept: tuple[str, ...]  # ids of the jobs whose rows are never changed


def prepare(folder: Path, model: Path) -> Ready:
    """Make the database."""
    from sanakit.serve.jobs.jobs import JobStore
    from sanakit.serve.jobs.keys import KeyStore, Limiter

    file = folder / "jobs.sqlite"
    jobs = JobStore(file)
    keys = KeyStore(jobs.database)
    token = keys.create("mine", per_minute=5, per_day=9)
    key = keys.verify(token)
    assert key is not None
    assert Limiter(keys).check(key, 1) is None  # a row of each table
    added = [jobs.add("generation", {"prompt": "a red apple", "seed": n}, None, 1) for n in range(4)]
    assert jobs.claim("me", 60) is not None
    jobs.finish(added[0].id, "me", [{"name": "x.png", "metadata": {}}])
    jobs.claim("other", -60)
    jobs.close()
    with closing(sqlite3.connect(file)) as database:  # all of it in one file
        database.execute("PRAGMA journal_mode = DELETE")
    return Ready(file, token, tuple(job.id for job in added[::2]))


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Damage a copy of the database, or ask a sound one for strange things."""
    file = Path(shutil.copy(ready.file, place / "here" / "jobs.sqlite"))
    damage = rng.choice((_bytes, _bytes, _cells, _cells, _cells, _schema, _another, _words))
    if damage is _words:
        return _words(rng, file)
    what, invalid = damage(rng, file)
    kept = ready.kept if damage is _cells and what.startswith("jobs.") else ()
    return Attempt(what, lambda: _serve(file, ready.token, kept), invalid)


def _serve(file: Path, token: str, kept: tuple[str, ...]) -> list[str]:
    """Do with the database all that a server does at its start and for its clients.

    kept: ids of jobs whose rows are sound; whatever the others hold, these are found and drawn.
    """
    from sanakit.errors import SanaError
    from sanakit.serve.jobs.database import Database
    from sanakit.serve.jobs.jobs import JobStore
    from sanakit.serve.jobs.keys import KeyStore, Limiter

    database = Database(file, wait=0.5)
    refusal: SanaError | None = None
    with closing(database):
        jobs, keys = JobStore(database), KeyStore(database)

        def check() -> None:
            if (key := keys.verify(token)) is not None:
                Limiter(keys).check(key, 1)

        def draw() -> None:
            while (job := jobs.claim("me", 60)) is not None:
                job.input_names(), job.result_names()
                jobs.renew("me", [job.id], 60)
                jobs.finish(job.id, "me", [])

        def find() -> None:
            try:
                listed = {job.id: job.status for job in jobs.list(None)} if kept else {}
            except SanaError as error:
                raise Wrong(f"one row keeps all jobs from being listed: {error}") from None
            if any(listed.get(name) != "finished" for name in kept):
                raise Wrong(f"of the sound jobs {kept}, these were drawn: {listed}")

        acts: tuple[Callable[[], Any], ...] = (
            *(lambda: jobs.recover("me"), jobs.counts, lambda: jobs.list(None), keys.list, check, draw, find),
            lambda: jobs.unused([f"{name}-0.png" for name in kept]),
            lambda: [jobs.get(job.id, None) for job in jobs.list(None)],
            lambda: keys.used(datetime.now(UTC).date()),
            lambda: jobs.delete_before(datetime.now(UTC) + timedelta(days=1), lambda name: None),
            lambda: keys.create("another"),
        )
        for act in acts:
            try:
                act()
            except SanaError as error:
                refusal = error
    if refusal is not None:
        raise refusal
    return []


def _bytes(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Damage the file's bytes."""
    content = bytearray(file.read_bytes())
    how = rng.choice(("cut", "bits", "bits", "page", "header", "journal", "log"))
    if how == "cut":
        content = content[: rng.randrange(1, len(content))]
    elif how == "bits":
        for _ in range(rng.choice((1, 10, 100))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "page":
        start = 4096 * rng.randrange(len(content) // 4096)
        content[start : start + 4096] = rng.randbytes(4096)
    elif how == "header":
        content[rng.randrange(100)] = rng.randrange(256)
    else:
        beside = {"journal": "-journal", "log": "-wal"}[how]
        file.with_name(file.name + beside).write_bytes(rng.randbytes(rng.choice((1, 100, 9000))))
    file.write_bytes(content)
    return f"damaged bytes: {how}", False


def _cells(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Put a strange value into a column of a row."""
    table = rng.choice(TABLES)
    value: Any = rng.choice(CELLS)
    with closing(sqlite3.connect(file)) as database:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        column = rng.choice(columns)
        with suppress(sqlite3.Error):  # as another constraint says no
            database.execute("PRAGMA ignore_check_constraints = ON")
            rows = "rowid % 2 = 0" if table == "jobs" else "1"
            if rng.random() < 0.1:
                value = TORN
                database.execute(f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE {rows}", (value,))
            else:
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {rows}", (value,))
        database.commit()
    return f"{table}.{column} = {value!r}"[:99], False


def _schema(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Change what tables and columns there are."""
    table = rng.choice(TABLES)
    with closing(sqlite3.connect(file)) as database:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        change = rng.choice(
            (
                f"ALTER TABLE {table} RENAME COLUMN {rng.choice(columns)} TO other",
                f"ALTER TABLE {table} ADD COLUMN other TEXT NOT NULL DEFAULT ''",
                f"DROP TABLE {table}",
                f"ALTER TABLE {table} RENAME TO other",
                f"CREATE TRIGGER t BEFORE UPDATE ON {table} BEGIN SELECT RAISE(FAIL, 'no'); END",
            )
        )
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute(change)
        if change.startswith("DROP") and rng.random() < 0.5:
            database.execute(f"CREATE VIEW {table} AS SELECT 1 AS number")
            change += ", and a view in its place"
        database.commit()
    return change, False


def _another(rng: random.Random, file: Path) -> tuple[str, bool]:
    """Put another thing where the database was."""
    how = rng.choice(("a text", "junk", "a folder", "a link in a circle", "another database"))
    file.unlink()
    if how == "a text":
        file.write_text("a letter to a friend\n" * 99)
    elif how == "junk":
        file.write_bytes(rng.randbytes(9000))
    elif how == "a folder":
        file.mkdir()
    elif how == "a link in a circle":
        file.symlink_to(file)
    else:
        with closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE jobs (letter TEXT)")
    return how, True


def _words(rng: random.Random, file: Path) -> Attempt:
    """Ask a sound database for strange jobs, keys, tokens and addresses."""
    from sanakit.errors import SettingsError
    from sanakit.serve.jobs.database import Database
    from sanakit.serve.jobs.jobs import JobStore
    from sanakit.serve.jobs.keys import KeyStore

    text = rng.choice(
        [one for one in WEIRD if isinstance(one, str)] + ["' OR 1=1 --", "job_" + "0" * 32, "%", "\u202e"]
    )
    what = rng.choice(("get", "list", "cancel", "verify", "create", "revoke", "open"))

    def act() -> list[str]:
        if what == "open":
            Database(
                rng.choice(
                    (
                        "x://y",
                        "postgresql://",
                        "sqlite://",
                        "mysql://a/b",
                        "http://x",
                        "://",
                        "sqlite:///:memory:",
                    )
                )
            )
            return []
        with closing(JobStore(file)) as jobs:
            keys = KeyStore(jobs.database)
            found = {
                "get": lambda: jobs.get(text, None),
                "list": lambda: jobs.list(None, before=text),
                "cancel": lambda: jobs.cancel(text, None),
                "verify": lambda: keys.verify(text),
                "create": lambda: keys.create(text, per_day=0),
                "revoke": lambda: keys.revoke(text),
            }[what]()
        if found:
            raise AssertionError(f"{what} found {found}")
        raise SettingsError("Nothing of that name was found: use another one.")

    return Attempt(f"{what} {text[:40]!r}", act, invalid=True)
