"""The tables of the server's database: their base, their version, and the way up from earlier versions.

A new database gets the tables as they are declared. One of an earlier version is brought up step by step, in
one transaction. One of a later version is refused, and so is one that lacks a column.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sanakit.errors import StorageError
from sanakit.serve.jobs.columns import Day, Entries, Natural, Rows, Utc, Words, damage


class Base(DeclarativeBase):
    """All tables of the server; those of jobs and keys share a database."""

    type_annotation_map = {
        int: Natural,
        str: Words,
        date: Day,
        datetime: Utc,
        dict[str, Any]: Entries,
        list[dict[str, Any]]: Rows,
    }


class Secret(Base):
    """A single row that no answer shows: a secret that all servers of this database share."""

    __tablename__ = "secret"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # always 1
    value: Mapped[str]  # 256 random bits, hexadecimal


class SchemaVersion(Base):
    """A single row: the version of the tables. The first version had no such table."""

    __tablename__ = "schema_version"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # always 1
    version: Mapped[int]


def _index_ended(connection: Connection) -> None:
    """Find old jobs without reading all of them."""
    if inspect(connection).has_table("jobs"):
        connection.execute(text("CREATE INDEX IF NOT EXISTS ix_jobs_ended ON jobs (ended)"))


def _add_progress(connection: Connection) -> None:
    """Keep how much of a video is drawn."""
    found = inspect(connection)
    if found.has_table("jobs") and "progress" not in {one["name"] for one in found.get_columns("jobs")}:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN progress INTEGER NOT NULL DEFAULT 0"))


# Changes of tables that exist; new ones need no step. Step i leads from version i + 1 to the next.
STEPS: tuple[Callable[[Connection], None], ...] = (_index_ended, _add_progress)


def prepare(session: Session, name: str) -> None:
    """Make the tables, or bring them up to this version; nothing is changed where that fails.

    name: of the database. Raises StorageError for tables of a later version, or with a column missing.
    """
    connection, latest = session.connection(), 1 + len(STEPS)
    there = {*inspect(connection).get_table_names()} & {*Base.metadata.tables}
    row = session.get(SchemaVersion, 1) if SchemaVersion.__tablename__ in there else None
    if row is not None and (damage(row) or row.version < 1):
        raise StorageError(
            f"The database {name} is damaged (the version of its tables is not a number from 1): "
            "restore a backup, or use another database."
        )
    version = row.version if row else 1 if there else latest
    if version > latest:
        raise StorageError(
            f"The database {name} was made by a later version of sanakit (its tables have version {version}, "
            f"this one knows {latest}): upgrade sanakit, or use another database."
        )
    for step in STEPS[version - 1 :]:
        step(connection)
    Base.metadata.create_all(connection)
    _check_columns(connection, name)
    session.merge(SchemaVersion(number=1, version=latest))


def _check_columns(connection: Connection, name: str) -> None:
    found = inspect(connection)
    for table in Base.metadata.sorted_tables:
        missing = {*table.columns.keys()} - {column["name"] for column in found.get_columns(table.name)}
        if missing:
            raise StorageError(
                f"The table {table.name} of the database {name} has no column {min(missing)}, which every "
                "version of sanakit made: restore a backup, or use another database."
            )
