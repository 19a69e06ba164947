"""Ranges of a file, as players and downloads ask for them (RFC 9110, 14)."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from sanakit.serve.http.failures import FailureError
from sanakit.serve.http.videos.content import content

DATA = bytes(range(100))


def ask(**headers: str) -> tuple[int, bytes, str | None]:
    answer = content(
        DATA, "video/mp4", Headers({name.replace("_", "-"): value for name, value in headers.items()})
    )
    assert (answer.headers["content-type"], answer.headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert answer.headers["content-length"] == str(len(bytes(answer.body)))
    return answer.status_code, bytes(answer.body), answer.headers.get("content-range")


@pytest.mark.parametrize(
    ("range", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=90-", 90, 100),
        ("bytes=90-1000", 90, 100),
        ("bytes=-5", 95, 100),
        ("bytes=-1000", 0, 100),
        ("bytes=99-99", 99, 100),
    ],
)
def test_a_range_is_answered_alone(range: str, start: int, end: int) -> None:
    assert ask(range=range) == (206, DATA[start:end], f"bytes {start}-{end - 1}/100")


@pytest.mark.parametrize(
    "range", ["", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=0-1,5-6", "items=0-1", "bytes=²-³", "0-1"]
)
def test_for_what_is_not_one_range_the_whole_file_is_sent(range: str) -> None:
    assert ask(range=range) == (200, DATA, None)


def test_a_range_of_another_version_is_not_taken_for_one_of_this_file() -> None:
    assert ask(range="bytes=10-19", if_range='"v1"') == (200, DATA, None)


@pytest.mark.parametrize("range", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_is_416(range: str) -> None:
    with pytest.raises(FailureError) as told:
        ask(range=range)
    failure = told.value.failure
    assert (failure.status, failure.headers["Content-Range"]) == (416, "bytes */100")
