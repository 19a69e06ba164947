"""Captions in text files, JSON and rows: where lines end, and what scores belong to."""

from __future__ import annotations

from typing import Any

import pytest

from sanakit.data.read.caption_files import (
    captions_in_json,
    captions_in_text,
    captions_in_value,
    unused_columns,
)
from sanakit.data.read.captions import Caption
from sanakit.errors import DataError


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_line_ends_end_a_caption(sign: str) -> None:
    text = f"a fox{sign}in snow\nan owl\r\na cat\ra dog"
    expected = [f"a fox{sign}in snow", "an owl", "a cat", "a dog"]
    assert [caption.text for caption in captions_in_text(text.encode(), "fox.txt")] == expected


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_mark_at_the_beginning_does_not_belong_to_the_caption(mark: bytes) -> None:
    assert captions_in_text(mark + b"a fox\nan owl", "fox.txt") == (Caption("a fox"), Caption("an owl"))
    assert captions_in_json(mark + b'"a fox"', "fox.json") == (Caption("a fox"),)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "", "score": "31.0"}, []),
        ({"text": "  ", "score": 31.0}, []),
        ({"text": None, "score": float("nan")}, []),
        ({"caption": " ", "text": " ", "score": 31.0}, []),
        ({"caption": "", "text": "a fox", "score": "31.0"}, [Caption("a fox", 31.0)]),
        ({"caption": "a fox", "text": "a fox", "score": 31.0}, [Caption("a fox", 31.0)]),
        ({"caption": ["a fox", "an owl"], "text": "a fox", "scores": [1, 2]}, [("a fox", 1), ("an owl", 2)]),
        ({"captions": ["a fox", " ", "an owl"], "scores": [1, 2, 3]}, [("a fox", 1), ("an owl", 3)]),
        ({"captions": ["a fox", None, "an owl"], "scores": [1, None, 3]}, [("a fox", 1), ("an owl", 3)]),
        ({"captions": ["a fox", "", "an owl"], "scores": [1, 3]}, [("a fox", 1), ("an owl", 3)]),
        ({"captions": ["a fox", "a fox"], "scores": [1, 3]}, [("a fox", 3)]),
        ({"text": "a fox", "score": " "}, [Caption("a fox")]),
        ({"text": "a fox", "score": "", "clip_score": "30"}, [Caption("a fox", 30.0)]),
        ({"captions": [{"text": "a fox", "score": 3}, {"text": "", "score": 4}]}, [("a fox", 3)]),
    ],
)
def test_scores_belong_to_their_texts_and_blank_texts_to_nothing(row: Any, expected: list) -> None:
    wanted = [one if isinstance(one, Caption) else Caption(one[0], float(one[1])) for one in expected]
    assert list(captions_in_value(row, "row 1")) == wanted


@pytest.mark.parametrize(
    "row",
    [
        {"captions": ["a fox", "an owl"], "score": 3},
        {"caption": "a fox", "text": "an owl", "score": 3},
        {"caption": "a fox", "scores": [1, 2, 3]},
    ],
)
def test_scores_that_may_belong_to_either_text_are_refused(row: Any) -> None:
    with pytest.raises(DataError, match=r"row 1 has . captions and . scores: write one score per caption"):
        captions_in_value(row, "row 1")


def test_columns_that_nothing_is_read_from_are_told_with_the_reason() -> None:
    columns = ["file_name", "text", "Caption", "score", "clip_score", "source", "width"]
    unused = unused_columns(columns, {"file_name"})
    assert list(unused) == ["Caption", "clip_score", "width"]
    assert unused["clip_score"] == "is read only where 'score' is empty"
    assert unused["width"].startswith("is not used: captions are read from columns named captions, caption")
