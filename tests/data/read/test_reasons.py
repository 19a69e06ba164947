"""Many of one reason take one line, and do not hide the only one of another."""

from __future__ import annotations

from sanakit.data.read.reasons import lines_of


def test_a_thousand_of_one_reason_do_not_hide_another() -> None:
    reasons = {f"{number}.cls": "is not an image" for number in range(1000)} | {"s.tar": "ends early"}
    assert lines_of(reasons, 5) == (
        ["0.cls, 1.cls, 2.cls and 997 more: is not an image", "s.tar: ends early"],
        0,
    )


def test_what_stands_in_no_line_is_counted() -> None:
    reasons = {f"{number}.png": f"has {number} px" for number in range(7)}
    assert lines_of(reasons, 5) == ([f"{number}.png: has {number} px" for number in range(5)], 2)
    assert lines_of({}, 5) == ([], 0)
