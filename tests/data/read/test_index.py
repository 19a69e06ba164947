"""One look at every image, and the file that keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sanakit.data.read import index as module
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.errors import DataError


def test_sizes_are_those_of_the_upright_pictures_and_broken_ones_are_named(folder: Path, picture) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpg").write_bytes(picture(300, 200, exif=exif))
    source = open_source(folder)
    index = scan(source)
    sizes = {source.key(i): (int(index.widths[i]), int(index.heights[i])) for i in range(len(source))}
    assert sizes["deep/07.jpg"] == (300, 400)
    assert sizes["turned.jpg"] == (200, 300)
    assert {source.key(i): reason for i, reason in index.broken.items()} == {
        "empty.jpg": "is empty",
        "foreign.png": "is not a JPEG, PNG, WEBP, BMP or TIFF image",
    }
    assert {key for key, size in sizes.items() if size == (0, 0)} == {"empty.jpg", "foreign.png"}


@pytest.mark.parametrize("threads", [1, 3])
def test_the_result_does_not_depend_on_threads_and_chunks(
    folder: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scan(open_source(folder))
    monkeypatch.setattr(module, "_CHUNK", 2)
    seen: list[tuple[str, int, int]] = []
    found = scan(open_source(folder), threads=threads, progress=lambda *said: seen.append(said))
    assert np.array_equal(found.heights, expected.heights)
    assert np.array_equal(found.widths, expected.widths)
    assert found.broken == expected.broken
    looked = [done for what, done, _ in seen if what == "looking at images"]
    assert looked == [2, 4, 6, 8, 10, 12, 14]


def test_an_unchanged_folder_is_not_looked_at_again_and_a_changed_one_is(
    folder: Path, tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "made" / "index.npz"
    first = scan(open_source(folder), cache)
    looks: list[int] = []
    size = module._size
    monkeypatch.setattr(module, "_size", lambda source, i: looks.append(i) or size(source, i))
    again = scan(open_source(folder), cache)
    assert looks == []
    assert np.array_equal(again.heights, first.heights)
    assert np.array_equal(again.widths, first.widths)
    assert (again.broken, again.fingerprint) == (first.broken, first.fingerprint)

    (folder / "empty.jpg").write_bytes(picture(64, 64))  # mended
    assert len(scan(open_source(folder), cache).broken) == 1
    assert len(looks) == 14
    cache.write_bytes(cache.read_bytes()[:100])  # damaged: it is only a cache
    assert len(scan(open_source(folder), cache).broken) == 1
    assert len(looks) == 28
    assert os.listdir(cache.parent) == ["index.npz"]


def test_a_cache_that_can_not_be_written_is_told_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_look", lambda *_: pytest.fail("it looked"))
    for place in (folder / "00.jpg" / "index.npz", folder):
        with pytest.raises(DataError, match="cannot be written"):
            scan(open_source(folder), place)


def test_a_picture_that_vanished_is_broken(folder: Path) -> None:
    source = open_source(folder)
    (folder / "00.jpg").unlink()
    assert scan(source).broken[0] == "cannot be read (No such file or directory)"
