"""What files of images can hold, and which ones data sets are made of."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from sanakit.data.read import decode, pairs
from sanakit.errors import SizeError
from sanakit.images.formats import DATA_FORMATS, DATA_SUFFIXES, MOST_SIDE, check_sides


@pytest.mark.parametrize("file_format", MOST_SIDE)
def test_the_limits_are_those_of_the_formats(file_format: str) -> None:
    most = MOST_SIDE[file_format]
    check_sides(file_format, 1, most)
    Image.new("L", (1, most)).save(io.BytesIO(), file_format)
    with pytest.raises(SizeError, match=f"{most + 1} px.*{most} at most: choose PNG"):
        check_sides(file_format, most + 1, 1)
    with pytest.raises((OSError, ValueError)):
        Image.new("L", (1, most + 1)).save(io.BytesIO(), file_format)


def test_a_png_may_have_any_size() -> None:
    check_sides("PNG", 10**6, 1)


def test_what_is_trained_on_is_what_is_measured() -> None:
    assert set(DATA_FORMATS) == set(decode.FORMATS)
    assert set(DATA_SUFFIXES) == set(pairs.PICTURES)
