"""What files of images can hold, and which ones data sets are made of."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from sanakit.data.read.open import open_source
from sanakit.errors import SizeError
from sanakit.eval.folder import list_images
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


def test_what_is_trained_on_is_what_is_measured(tmp_path: Path) -> None:
    names = sorted(f"fox{suffix}" for suffix in DATA_SUFFIXES)
    for name in names:
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    assert [path.name for path in list_images(tmp_path)] == names
    source = open_source(tmp_path)
    assert [source.key(number) for number in range(len(source))] == names
    kinds = set()
    for name in names:
        with Image.open(tmp_path / name) as image:
            kinds.add(image.format)
    assert kinds == set(DATA_FORMATS)
