"""Which captions belong to which image: in a folder, and in a shard of the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sanakit.data.medium import CLIPS
from sanakit.data.read.open import open_source
from sanakit.data.read.pairs import paired
from sanakit.data.read.source import Source

# Files -> the texts that each image is to have, and the files that are not used.
NAMES = {
    "dots in names": (
        ["2024.01.05-0.png", "2024.01.05-0.txt", "2024.01.05-1.png", "2024.01.05-1.txt"],
        {"2024.01.05-0.png": ["2024.01.05-0.txt"], "2024.01.05-1.png": ["2024.01.05-1.txt"]},
        set(),
    ),
    "several images of a sample": (
        ["1.depth.png", "1.jpg", "1.txt", "1.depth.txt"],
        {"1.depth.png": ["1.depth.txt"], "1.jpg": ["1.txt"]},
        set(),
    ),
    "further texts of a sample": (
        ["1.jpg", "1.txt", "1.neg.txt", "1.exif.json", "1.cls"],
        {"1.jpg": ["1.txt"]},
        {"1.neg.txt", "1.exif.json", "1.cls"},
    ),
    "one name, two suffixes": (["1.jpg", "1.png", "1.txt"], {"1.jpg": ["1.txt"], "1.png": ["1.txt"]}, set()),
    "other cases of suffixes": (
        ["A.JPG", "A.TXT", "b.Png", "b.Json"],
        {"A.JPG": ["A.TXT"], "b.Png": ["b.Json"]},
        set(),
    ),
    "captions twice": (["a.jpg", "a.TXT", "a.txt"], {"a.jpg": ["a.txt"]}, {"a.TXT"}),
    "folders with dots": (["v1.0/a.jpg", "v1.0/a.txt", "v1.txt"], {"v1.0/a.jpg": ["v1.0/a.txt"]}, {"v1.txt"}),
    "hidden": (["a.jpg", ".a.txt", ".trash/b.jpg", "._a.jpg"], {"a.jpg": []}, set()),
}


def captions(source: Source, prefix: str) -> dict[str, list[str]]:
    return {
        source.key(index).removeprefix(prefix): [caption.text for caption in source.captions(index)]
        for index in range(len(source))
    }


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("place", ["folder", "shard"])
def test_a_folder_and_a_shard_of_the_same_files_have_the_same_captions(
    tmp_path: Path, tar: Callable[..., Path], kind: str, place: str
) -> None:
    names, expected, unused = NAMES[kind]
    files = {
        name: f'"{name}"'.encode() if name.lower().endswith(".json") else name.encode() for name in names
    }
    if place == "shard":
        source, prefix = open_source(tar(tmp_path / "s.tar", files.items())), "s.tar:"
    else:
        for name, content in files.items():
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(content)
        source, prefix = open_source(tmp_path / "folder"), ""
    assert captions(source, prefix) == expected
    assert set(source.ignored) == {prefix + name for name in unused}


def test_what_is_not_used_is_told_with_the_reason() -> None:
    unused = "is a camera path, which only models of worlds use"
    cameras = ["walk.cameras.json", "walk.cameras.txt"]
    assert paired(["walk.mp4", *cameras], CLIPS).ignored == dict.fromkeys(cameras, unused)
    assert paired(["b.jpg", "a.txt", "b.TXT", "b.txt", "b.cls", "licence"]).ignored == {
        "a.txt": "is a caption without an image",
        "b.TXT": "is not used: the captions of b.txt are",
        "b.cls": "is not an image (.cls)",
        "licence": "is not an image (no suffix)",
    }
