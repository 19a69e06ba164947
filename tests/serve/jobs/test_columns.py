"""A value that its column cannot hold is noted and named; every value that it can hold comes back."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy.dialects import sqlite

from sanakit.serve.jobs.columns import (
    DAMAGED,
    Checked,
    Day,
    Entries,
    Natural,
    Rows,
    Utc,
    Words,
    damage,
    mended,
)
from sanakit.serve.jobs.jobs import Job

DIALECT = sqlite.dialect()
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def read(kind: Checked[Any], value: Any) -> Any:
    """What a column of SQLite gives for a value in the file."""
    inside: Any = kind.dialect_impl(DIALECT)
    return inside.result_processor(DIALECT, None)(value)


@pytest.mark.parametrize(
    ("kind", "stored", "found"),
    [
        (Natural(), 0, 0),
        (Natural(), 2**63 - 1, 2**63 - 1),
        (Words(), "", ""),
        (Words(), "é\0😀", "é\0😀"),
        (Day(), "2026-11-29", date(2026, 11, 29)),
        (Utc(), "2026-11-29 12:00:00.000000", NOON),
        (Entries(), '{"a": [1, null]}', {"a": [1, None]}),
        (Rows(), "[]", []),
        (Rows(), '[{"name": "x"}]', [{"name": "x"}]),
        *((kind, None, None) for kind in (Natural(), Words(), Day(), Utc())),
    ],
)
def test_what_a_column_can_hold_is_read(kind: Checked[Any], stored: Any, found: Any) -> None:
    assert read(kind, stored) == found


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Natural(), (-1, 1.5, "", "x", b"\xff", float("inf"))),
        (Words(), (7, 1.5, b"\xff\0", "\udcff", "\ud83d")),
        (Day(), ("", "x", "9999-99-99", 7, 1.5, b"\xff")),
        (Utc(), ("", "x", "9999-99-99", -1, 1.5, b"\xff", "queued")),
        (Entries(), ("", "{", "[]", "1", "9999-99-99", 7, b"\xff", '{"a": NaN}', '{"a": "\\ud83d"}')),
        (Entries(), ("[" * 100_000, '{"a":' * 50_000)),
        (Rows(), ("{}", "[1]", '[{"a": Infinity}]', "null x")),
    ],
)
def test_what_a_column_can_not_hold_is_noted_and_not_raised(
    kind: Checked[Any], values: tuple[Any, ...]
) -> None:
    for value in values:
        assert read(kind, value) is DAMAGED, value


def test_a_damaged_row_is_named_by_its_column_and_can_be_shown() -> None:
    sound = {"number": 3, "id": "job_x", "kind": "edit", "body": {}, "pictures": 1, "created": NOON}
    sound |= {"status": "queued", "attempts": 0, "progress": 0, "files": []}
    assert damage(Job(**sound)) == ""
    assert damage(Job(**sound | {"pictures": DAMAGED})) == "pictures is not a whole number from 0"
    assert damage(Job(**sound | {"body": None})) == "body is not an object of JSON"
    job = mended(Job(**sound | {"pictures": DAMAGED, "ended": DAMAGED}), status="failed")
    assert damage(job) == ""
    assert (job.number, job.id, job.pictures, job.status) == (3, "job_x", 0, "failed")
    assert job.ended == datetime(1970, 1, 1, tzinfo=UTC)
