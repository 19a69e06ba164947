"""Shards as a data set: samples that a name, a link or damage would hide are used or named."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sanakit.data.read.open import open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError

Tar = Callable[..., Path]


def samples(source: Source) -> dict[str, tuple[bytes, list[str]]]:
    return {
        source.key(index): (source.read(index), [caption.text for caption in source.captions(index)])
        for index in range(len(source))
    }


def test_links_and_replaced_members_have_their_images_and_captions(tmp_path: Path, tar: Tar) -> None:
    path = tar(
        tmp_path / "s.tar",
        [
            ("fox.jpg", b"old"),
            ("fox.txt", b"an old fox"),
            ("fox.jpg", b"new"),
            ("fox.txt", b"a new fox"),
            ("copy.jpg", (tarfile.LNKTYPE, "fox.jpg")),
            ("copy.json", b'"a copy"'),
            ("copy.txt", (tarfile.SYMTYPE, "fox.txt")),
        ],
    )
    source = pickle.loads(pickle.dumps(open_source(path)))
    assert samples(source) == {
        "s.tar:fox.jpg": (b"new", ["a new fox"]),
        "s.tar:copy.jpg": (b"new", ["a new fox", "a copy"]),
    }
    assert set(source.ignored) == {"s.tar:fox.jpg", "s.tar:fox.txt"}


def test_a_damaged_shard_is_named_with_what_is_still_used(tmp_path: Path, tar: Tar) -> None:
    path = tar(tmp_path / "s.tar", [(f"{number}.jpg", b"x") for number in range(10)])
    content = bytearray(path.read_bytes())
    content[2 * 1024] ^= 1
    path.write_bytes(content)
    tar(tmp_path / "t.tar", [("whole.jpg", b"x")])
    source = open_source(tmp_path)
    assert len(source) == 3
    assert list(source.ignored) == ["s.tar"]
    assert source.ignored["s.tar"].endswith("(2 images before that are used)")


def test_shards_of_folders_below_are_read_and_other_files_named(tmp_path: Path, tar: Tar) -> None:
    (tmp_path / "more").mkdir()
    tar(tmp_path / "a.tar", [("fox.jpg", b"x")])
    tar(tmp_path / "more" / "b.tar", [("owl.jpg", b"x")])
    (tmp_path / "a_stats.json").write_text("{}")
    (tmp_path / "a.tar.md5").write_text("sum")
    (tmp_path / ".a.tar.part").write_text("unfinished")
    source = open_source(tmp_path)
    assert list(samples(source)) == ["a.tar:fox.jpg", "more/b.tar:owl.jpg"]
    assert source.ignored == dict.fromkeys(("a_stats.json", "a.tar.md5"), "is not a part of the data set")

    (tmp_path / "a.tar").unlink()
    assert list(samples(open_source(tmp_path))) == ["more/b.tar:owl.jpg"]


def test_shards_without_an_image_say_what_is_wrong_with_the_first(tmp_path: Path, tar: Tar) -> None:
    tar(tmp_path / "s.tar", [("fox.npy", b"x")])
    with pytest.raises(DataError, match=r"s\.tar:fox\.npy, is not an image \(\.npy\)"):
        open_source(tmp_path)
