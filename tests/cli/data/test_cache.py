"""`sana data cache`, as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def pictures(sana) -> Path:
    """A folder in the current one."""
    folder = Path("pictures")
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), "red").save(folder / name)
        (folder / name).with_suffix(".txt").write_text("a red apple")
    (folder / "c.jpg").write_bytes(b"no picture")
    return folder


def test_it_says_what_it_will_take_then_what_it_made_and_goes_on(sana, pictures: Path, tiny: Path) -> None:
    words = ("data", "cache", "pictures", "cache", "--model", tiny, "--text", "--device", "cpu")
    done = sana(*words)
    assert done.code == 0
    first, broken = done.err.splitlines()
    assert first.startswith("2 of 3 images at 64 px in 1 size: latents 128 B, text features about ")
    assert "(2 captions of " in first
    assert "24 wide)" in first
    assert broken == "Warning: c.jpg: is not a JPEG, PNG, WEBP, BMP or TIFF image"
    assert done.out.startswith("cache  2 images, ")
    assert done.out.endswith(" 1 shard, 1 broken\n")
    again = json.loads(sana(*words, "--json").out)
    assert (again["pictures"], again["kept"]) == (2, 2)


def test_what_is_not_used_is_named_for_people_and_machines(sana, pictures: Path, tiny: Path) -> None:
    (pictures / "lost.txt").write_text("a caption")
    Image.new("RGB", (8, 8), "red").save(pictures / "small.png")
    words = ("data", "cache", "pictures", "cache", "--model", tiny, "--device", "cpu")
    done = sana(*words)
    assert done.err.splitlines()[1:] == [
        "Warning: lost.txt: is a caption without an image",
        "Warning: c.jpg: is not a JPEG, PNG, WEBP, BMP or TIFF image",
        "Warning: small.png: 8x8 px is too small for 64x64",
    ]
    assert done.out.endswith(" 1 broken, 1 too small or narrow, 1 not used besides images\n")
    assert json.loads(sana(*words, "--json").out)["ignored"] == {"lost.txt": "is a caption without an image"}


def test_other_captions_into_the_same_folder_are_a_sentence(sana, pictures: Path, tiny: Path) -> None:
    words = ("data", "cache", "pictures", "cache", "--model", tiny)
    assert sana(*words).code == 0
    (pictures / "a.txt").write_text("a green apple")
    refused = sana(*words)
    assert refused.code == 2
    assert "with other captions or scores, which changed since: choose another folder" in refused.err


def test_another_model_into_the_same_folder_is_a_sentence(sana, pictures: Path, tiny: Path) -> None:
    assert sana("data", "cache", "pictures", "cache", "--model", tiny).code == 0
    refused = sana("data", "cache", "pictures", "cache", "--model", "pocket", "--resolution", 64)
    assert refused.code == 2
    assert "is a cache made with" in refused.err
    assert "pocket differs from it in the autoencoder's encoder" in refused.err
