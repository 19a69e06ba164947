"""Column types that survive a damaged database: a value that makes no sense is noted, not raised.

Another program, a bad disk or a restored half of a backup may leave anything in a row; SQLite takes any value
in any column. One such row must not keep the others from being read, so a type here reads it as `DAMAGED`.
`damage` tells which column of a row that is, and `mended` makes a row of it that can be shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, ClassVar, TypeVar

from sqlalchemy import JSON, Date, DateTime, Dialect, Integer, String, inspect
from sqlalchemy.orm import DeclarativeBase, Mapper
from sqlalchemy.types import TypeDecorator

_Value = TypeVar("_Value")
Row = TypeVar("Row", bound=DeclarativeBase)


class Damaged:
    """The class of DAMAGED, the value of a cell that its column cannot hold."""


DAMAGED = Damaged()


class Checked(TypeDecorator[_Value]):
    """A type that reads what it cannot hold as DAMAGED. Abstract."""

    what: ClassVar[str]  # in words
    neutral: ClassVar[Any]  # stands for a damaged value where a row is shown

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Return the function that reads a value of the database."""
        read = super().result_processor(dialect, coltype)

        def checked(value: Any) -> Any:
            try:
                found = read(value) if read else value
                sound = found is None or self.holds(found)
            except (ValueError, TypeError, OverflowError, RecursionError):
                return DAMAGED
            return found if sound else DAMAGED

        return checked

    def holds(self, value: Any) -> bool:
        """Return whether a column may hold what was read. May raise ValueError."""
        raise NotImplementedError


class Natural(Checked[int]):
    """A whole number from 0."""

    impl, cache_ok = Integer, True
    what, neutral = "a whole number from 0", 0

    def holds(self, value: Any) -> bool:
        """Return whether it is one."""
        return isinstance(value, int) and value >= 0


class Words(Checked[str]):
    """A text of Unicode; other bytes come from SQLite as surrogates (see `Database`)."""

    impl, cache_ok = String, True
    what, neutral = "a text in UTF-8", ""

    def holds(self, value: Any) -> bool:
        """Return whether it is one."""
        return isinstance(value, str) and bool(value.encode() or True)


class Day(Checked[date]):
    """A day of UTC."""

    impl, cache_ok = Date, True
    what, neutral = "a day", date(1970, 1, 1)

    def holds(self, value: Any) -> bool:
        """Return whether it is one."""
        return isinstance(value, date)


class Utc(Checked[datetime]):
    """A time with its zone, which is always UTC; SQLite has no column type that would keep the zone."""

    impl, cache_ok = DateTime(timezone=True), True
    what, neutral = "a time", datetime(1970, 1, 1, tzinfo=UTC)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a time as the database takes it."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a time of the database with its zone."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)

    def holds(self, value: Any) -> bool:
        """Return whether it is one."""
        return isinstance(value, datetime)


class Entries(Checked[dict[str, Any]]):
    """An object of JSON that every reader of JSON takes: without NaN or halves of characters."""

    impl, cache_ok = JSON, True
    what, neutral = "an object of JSON", {}

    def holds(self, value: Any) -> bool:
        """Return whether it is one."""
        return isinstance(value, dict) and _is_plain(value)


class Rows(Checked[list[dict[str, Any]]]):
    """A list of such objects."""

    impl, cache_ok = JSON, True
    what, neutral = "a list of JSON's objects", []

    def holds(self, value: Any) -> bool:
        """Return whether it is one."""
        return isinstance(value, list) and all(isinstance(row, dict) for row in value) and _is_plain(value)


def _is_plain(value: object) -> bool:
    """Raise ValueError for numbers and texts that JSON cannot hold; else return True."""
    return bool(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


def damage(row: DeclarativeBase) -> str:
    """Return what is wrong with a row: "pictures is not a whole number from 0"; empty if it is sound."""
    for name, column in _mapper(type(row)).columns.items():
        value = getattr(row, name)
        if value is DAMAGED or (value is None and not column.nullable):
            return f"{name} is not {column.type.what}" if isinstance(column.type, Checked) else name
    return ""


def mended(row: Row, **values: Any) -> Row:
    """Return a copy of a row with neutral values for damaged ones, and with these values; not stored."""
    cells: dict[str, Any] = {}
    for name, column in _mapper(type(row)).columns.items():
        value = getattr(row, name)
        wrong = value is DAMAGED or (value is None and not column.nullable)
        cells[name] = column.type.neutral if wrong and isinstance(column.type, Checked) else value
    return type(row)(**cells | values)


def _mapper(kind: type[DeclarativeBase]) -> Mapper[Any]:
    return inspect(kind)
