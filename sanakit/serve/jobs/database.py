"""The server's database: SQLite in a file by default, PostgreSQL by URL, through SQLAlchemy.

Every failure of a database (locked, full, gone, damaged, unreachable) becomes one exception, StorageError,
after a bounded wait. Messages never carry statements or their values: those hold prompts.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from sanakit.errors import MissingExtraError, SettingsError, StorageError
from sanakit.serve.jobs.columns import damage
from sanakit.serve.jobs.fair_lock import FairLock
from sanakit.serve.jobs.schema import Secret, prepare

WAIT = 5.0  # seconds for a lock, a connection or an answer, before StorageError
_SHORTEST_SECRET = 8  # characters; what the first servers made has more
_TABLES_LOCK = 0x53414E41  # PostgreSQL's advisory lock under which tables are made


class Database:
    """One database, with its tables, its secret, and its two kinds of transaction.

    url: a file's path, sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME. wait: seconds, see WAIT.
    Raises SettingsError for other URLs, StorageError if it cannot be opened or its tables do not fit this
    version (see `schema.py`), MissingExtraError without PostgreSQL's driver. All methods may be called from
    any thread; all of them may block for `wait`, so a server calls them outside its event loop.
    """

    def __init__(self, url: str | os.PathLike[str], *, wait: float = WAIT) -> None:
        parsed = _parse(os.fspath(url))
        self.name = parsed.render_as_string(hide_password=True)
        self._path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
        self._identity: tuple[int, int] | None = None
        self._turn, self._wait = FairLock(), wait
        if self._path is not None:
            self.name = str(self._path)
            self._identity = self._make_file(self._path)
        try:
            self._engine = create_engine(
                parsed,
                connect_args=_driver_options(self._path is not None, wait),
                pool_timeout=wait,
                pool_pre_ping=self._path is None,
                hide_parameters=True,  # they hold prompts, and exceptions are logged
            )
        except ImportError as error:
            raise MissingExtraError(error.name or "psycopg", "postgres") from None
        if self._path is not None:
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writer = self._engine.execution_options(writes=True)
        with self.writing() as session:
            if self._path is None:  # two servers may start at once
                session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _TABLES_LOCK})
            prepare(session, self.name)
            known = session.get(Secret, 1) or Secret(number=1, value=secrets.token_hex(32))
            session.add(known)
        if damage(known) or len(known.value) < _SHORTEST_SECRET:
            raise StorageError(
                f"The secret in the database {self.name} is damaged, and ids of jobs are made with it: "
                "restore a backup, or use another database."
            )
        self.secret = known.value  # made with the database, the same for all that open it

    def reading(self):
        """A transaction that only reads, as a context manager that gives a Session. Raises StorageError."""
        return self._transaction(self._engine)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Hold a transaction that writes, committed when its block ends without an exception.

        On SQLite it holds the only write lock from its first moment (BEGIN IMMEDIATE): its reads stay valid
        until it writes, and another's lock cannot make it fail half-way. Threads of this process wait for
        their turn here: SQLite only looks now and then whether its lock is free, and in a crowd some threads
        would always find it taken. Raises StorageError.
        """
        if self._path is None:
            with self._transaction(self._writer) as session:
                yield session
            return
        if not self._turn.acquire(timeout=self._wait):
            raise StorageError(f"The database {self.name} cannot be used (too many wait for it): try again.")
        try:
            with self._transaction(self._writer) as session:
                yield session
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, bind) -> Iterator[Session]:
        self._check_file()
        try:
            with Session(bind, expire_on_commit=False) as session, session.begin():
                yield session
        # The driver's own exceptions come from new connections; names in a damaged file are not UTF-8.
        except (SQLAlchemyError, sqlite3.Error, UnicodeDecodeError) as error:
            raise StorageError(f"{self._trouble(error)}") from None

    def _make_file(self, path: Path) -> tuple[int, int]:
        """Create the file, readable by its owner alone, where there is none; return what identifies it."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                found = os.fstat(file)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"The database {path} cannot be opened ({reason}): check the path and its permissions."
            ) from None
        return found.st_dev, found.st_ino

    def _check_file(self) -> None:
        """Refuse to go on in a file that was deleted or replaced: SQLite would write where nobody reads."""
        if self._path is None:
            return
        try:
            found = os.stat(self._path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise StorageError(
                f"The database {self._path} was removed or replaced: restore it, then restart the server."
            )

    def _trouble(self, error: Exception) -> str:
        """One sentence on what the database said. Only its first line: the next ones may quote a row."""
        said = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        remedy = "try again, or check that it runs, its permissions and its free disk space"
        if isinstance(error, UnicodeDecodeError):
            reason = "it holds names that are not UTF-8"
        if re.search("malformed|not a database|not UTF-8", reason):
            remedy = "the file is damaged; stop the server and restore a backup"
        elif re.search("no such (table|column)|(relation|column) .* does not exist", reason):
            remedy = "its tables were changed by another program; restart the server, which checks them"
        return f"The database {self.name} cannot be used ({reason}): {remedy}."


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def _parse(url: str) -> URL:
    """Return the URL with its driver. Raises SettingsError."""
    try:
        parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
    except ArgumentError:
        parsed = URL.create("unreadable")
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise SettingsError(
        f"No database can be opened at {parsed.render_as_string(hide_password=True)}: give the path of a "
        "file, or sqlite:///PATH, or postgresql://USER:PASSWORD@HOST/NAME."
    )


def _driver_options(is_sqlite: bool, wait: float) -> dict[str, Any]:
    """Return the settings that bound the driver's waits."""
    if is_sqlite:
        return {"timeout": wait}
    milliseconds = int(1000 * wait)
    return {
        "connect_timeout": max(2, round(wait)),  # libpq takes whole seconds, 2 or more
        "tcp_user_timeout": milliseconds,  # a server that vanished without a word
        "options": f"-c lock_timeout={milliseconds} -c statement_timeout={2 * milliseconds}",
    }


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # Python's driver would begin transactions when it thinks best; `_begin_sqlite` does.
    connection.isolation_level = None
    # A text that is not UTF-8 is damage of one row; by itself the driver would refuse all of them.
    connection.text_factory = lambda value: value.decode(errors="surrogateescape")
    # WAL: readers and the writer do not wait for each other. FULL syncs each commit to the disk: a job whose
    # client was told "accepted" outlives a power cut too. It costs a few milliseconds a commit, and there are
    # two or three commits an image.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
