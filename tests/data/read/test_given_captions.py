"""Captions in place of a source's own: one for all images, or one for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sanakit.data.read.given_captions import GivenCaptions
from sanakit.data.read.open import open_source
from sanakit.errors import DataError


@pytest.fixture
def source(tmp_path: Path):
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_bytes(b"\xff not text")  # which is not read
    return open_source(tmp_path)


def test_one_is_for_all_and_three_are_for_one_each(source) -> None:
    assert [GivenCaptions(source, ["a"]).captions(i)[0].text for i in range(3)] == ["a"] * 3
    each = GivenCaptions(source, ["a", "b", "c"])
    assert [[one.text for one in each.captions(i)] for i in range(3)] == [["a"], ["b"], ["c"]]
    with pytest.raises(DataError, match="2 captions came for 3 images"):
        GivenCaptions(source, ["a", "b"])


def test_images_are_the_source_s_and_the_captions_tell_it_apart(source) -> None:
    given, other = GivenCaptions(source, ["a"]), GivenCaptions(source, ["b"])
    assert [given.key(i) for i in range(len(given))] == ["0.png", "1.png", "2.png"]
    assert given.read(1) == source.read(1)
    assert given.fingerprint() == source.fingerprint() == other.fingerprint()
    assert given.captions_fingerprint() != other.captions_fingerprint()
    assert given.ignored == source.ignored
