"""Numbers stand with the right noun."""

from __future__ import annotations

import pytest

from sanakit.wording import counted


@pytest.mark.parametrize(
    ("number", "words", "sentence"),
    [
        (1, ("shard",), "1 shard"),
        (0, ("shard",), "0 shards"),
        (1234, ("shard",), "1,234 shards"),
        (1, ("frame is", "frames are"), "1 frame is"),
        (2, ("frame is", "frames are"), "2 frames are"),
    ],
)
def test_one_is_not_several(number: int, words: tuple[str, ...], sentence: str) -> None:
    assert counted(number, *words) == sentence
