"""`sana edit`: the whole image, a part, around it; what is kept, what is printed, and what is refused."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageChops, ImageCms

from sanakit.cli.drawing.edit import parse_margins
from sanakit.errors import SettingsError
from sanakit.images.formats import MOST_SIDE
from sanakit.images.image import read_metadata
from sanakit.images.opening import flatten
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.inpaint import Inpaint

SIZE = (96, 64)


@pytest.fixture
def edit(sana, tiny: Path):
    """Run `sana edit photo.png` with the tiny model; photo.png is noise, mask.png marks a block in it."""
    levels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(levels).save("photo.png")
    mask = Image.new("L", SIZE)
    mask.paste(255, (32, 16, 80, 48))
    mask.save("mask.png")

    def run(*words: object, image: str = "photo.png"):
        return sana("edit", image, "a red apple", "--model", tiny, "--seed", 7, *words)

    return run


def differing(first: str, second: str) -> tuple[int, int, int, int] | None:
    """The box of all pixels in which two files differ."""
    return ImageChops.difference(Image.open(first).convert("RGB"), Image.open(second)).getbbox()


def test_the_input_is_kept_however_its_path_is_written(
    sana, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    Image.new("RGB", (64, 64)).save("keep.png")
    before = Path("keep.png").read_bytes()
    outcome = sana("edit", "~/keep.png", "a fox", "--model", tiny, "--steps", 1, "-o", "keep.png")
    assert outcome.code == 2
    assert "what it is made from" in outcome.err
    assert Path("keep.png").read_bytes() == before


def test_a_picture_is_drawn_anew_in_its_own_size(edit) -> None:
    outcome = edit("--output", "new.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, "new.png  seed 7\n", "")
    assert Image.open("new.png").size == SIZE
    assert differing("photo.png", "new.png") == (0, 0, *SIZE)


def test_every_pixel_outside_the_mask_is_kept(edit) -> None:
    assert edit("--mask", "mask.png", "--output", "new.png").code == 0
    left, top, right, bottom = differing("photo.png", "new.png") or (0, 0, *SIZE)
    assert 32 <= left < right <= 80
    assert 16 <= top < bottom <= 48


def test_a_picture_is_continued_beyond_its_edges_and_kept(edit) -> None:
    assert edit("--expand", "32,0,0,64", "--output", "wide.png").code == 0
    wide = Image.open("wide.png")
    assert wide.size == (128, 128)
    kept = ImageChops.difference(wide.crop((32, 0, 128, 64)), Image.open("photo.png"))
    assert kept.getbbox() is None


def test_the_settings_are_used_and_stand_in_the_png(edit) -> None:
    words = {"steps": 3, "guidance": 1.5, "solver": "euler", "size": "64x96", "negative": "blue"}
    edit("--strength", 0.5, "--output", "new.png", *(f"--{name}={word}" for name, word in words.items()))
    found = read_metadata("new.png")
    asked = {"steps": 3, "guidance": 1.5, "solver": "euler", "width": 64, "height": 96}
    asked |= {"negative_prompt": "blue", "prompt": "a red apple", "seed": 7}
    assert asked.items() <= found.items()
    assert float(found["strength"]) == 0.5


@pytest.mark.parametrize("more", [[], ["--mask", "mask.png"]])
def test_a_plan_quantises_the_model(edit, more: list[str]) -> None:
    edit("--output", "whole.png", *more)
    assert edit("--plan", "int4", "--output", "few.png", *more).code == 0
    assert differing("whole.png", "few.png")


def test_less_strength_keeps_more(edit) -> None:
    def away(strength: float) -> float:
        edit("--strength", strength, "--steps", 5, "--output", f"{strength}.png")
        arrays = [np.asarray(Image.open(name), float) for name in (f"{strength}.png", "0.png")]
        return float(np.abs(arrays[0] - arrays[1]).mean())

    edit("--strength", 0, "--output", "0.png")
    assert 0 == away(0) < away(0.4) < away(1)


def test_a_model_of_two_steps_edits_with_all_defaults(edit, sprint: Path) -> None:
    for words in ([], ["--mask", "mask.png"], ["--expand", "32"]):
        outcome = edit("--output", "new.png", "--model", sprint, *words)
        assert outcome.code == 0, outcome.err
        assert read_metadata("new.png")["strength"] == (1.0 if words else 0.5)
    assert edit("--output", "new.png", "--model", sprint, "--steps", 3).code == 0
    assert read_metadata("new.png")["strength"] == 0.6


def test_several_pictures_get_numbers_and_json_tells_them(edit) -> None:
    report = json.loads(edit("--num-images", 2, "--output", "new.png", "--json").out)
    assert [image["path"] for image in report["images"]] == ["new-1.png", "new-2.png"]
    assert [image["seed"] for image in report["images"]] == [7, 8]
    assert set(report["timings"]) == {"text", "denoise", "decode"}
    assert differing("new-1.png", "new-2.png")


def test_without_a_name_a_new_one_is_chosen(edit) -> None:
    assert [edit().out.split()[0] for _ in range(2)] == ["sana-7.png", "sana-7_2.png"]


@pytest.mark.parametrize("name", ["turned.jpg", "turned.tiff", "turned.webp"])
def test_a_photograph_is_turned_upright(edit, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    Image.open("photo.png").save(name, exif=exif)
    edit("--output", "new.png", image=name)
    assert Image.open("new.png").size == SIZE[::-1]


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_what_comes_out_is_in_srgb_and_carries_nothing_of_its_source(edit, mode: str) -> None:
    colours = Image.open("photo.png").convert(mode)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # fits RGB alone
    colours.save("source.jpg", icc_profile=profile, comment=b"for your eyes only", quality=95)
    kept = np.asarray(flatten(Image.open("source.jpg")))
    for name in ("new.png", "new.jpg", "new.webp"):
        assert edit("--mask", "mask.png", "--output", name, image="source.jpg").code == 0
        with Image.open(name) as new:
            new.load()
            assert new.mode == "RGB"
            assert not {"icc_profile", "comment"} & set(new.info)
            assert set(new.getexif()) <= {ExifTags.Base.Software, ExifTags.IFD.Exif}  # our settings alone
            if new.format == "PNG":
                assert (np.asarray(new)[:, :32] == kept[:, :32]).all()
        assert b"eyes only" not in Path(name).read_bytes()


# Mistakes


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, content: bytes = zlib.compress(b"\0" * 100)) -> bytes:
    """A PNG that says what size it has, whatever is in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b"")


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.png": (lambda path: path.touch(), "not an image"),
    "text.png": (lambda path: path.write_text("a red apple"), "not an image"),
    "page.jpg": (lambda path: path.write_text("<!DOCTYPE html><html>Log in</html>"), "not an image"),
    "truncated.png": (lambda path: path.write_bytes(Path("photo.png").read_bytes()[:3000]), "damaged"),
    "junk-inside.png": (lambda path: path.write_bytes(png(64, 64, content=b"junk")), "damaged"),
    "bomb.png": (lambda path: path.write_bytes(png(60_000, 60_000)), "too many pixels"),
    "large.png": (lambda path: path.write_bytes(png(9_000, 9_000)), "too many pixels"),
    "drawing.eps": (
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "not an image",
    ),
    "folder.png": (lambda path: path.mkdir(), "directory"),
    "missing.png": (lambda path: None, "No such file"),
}


@pytest.fixture
def refused(edit):
    """Run `sana edit` with words that must be refused, and return the sentence."""

    def run(*words: object, image: str = "photo.png") -> str:
        before = {path.name: path.is_file() and path.read_bytes() for path in Path().iterdir()}
        outcome = edit(*words, image=image)
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert outcome.err.startswith("Error: ")
        assert outcome.err.count("\n") == 1
        assert len(outcome.err) < 600
        assert {path.name: path.is_file() and path.read_bytes() for path in Path().iterdir()} == before
        return outcome.err

    return run


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_or_mask_is_refused(refused, name: str) -> None:
    write, naming = BAD_PICTURES[name]
    write(Path(name))
    for sentence in (refused(image=name), refused("--mask", name)):
        assert name in sentence
        assert naming in sentence


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (["--strength", "2"], "strength"),
        (["--strength", "-0.1"], "strength"),
        (["--strength", "nan"], "strength"),
        (["--strength", "much"], "--strength"),
        (["--size", "big"], "big"),
        (["--size", "100x100"], "96x96"),
        (["--steps", "0"], "--steps"),
        (["--guidance", "nan"], "guidance"),
        (["--expand", "wide"], "0,0,64,0"),
        (["--expand", "1,2,3"], "1,2,3"),
        (["--expand", "-1,0,0,0"], "-1,0,0,0"),
        (["--expand", "0"], "margins are 0"),
        (["--expand", "0,0,99999,0"], "4096"),
        (["--expand", "64", "--mask", "mask.png"], "cannot be combined"),
        (["--device", "toaster"], "toaster"),
        (["--memory", "lots"], "memory"),
        (["--plan", "int3"], "int3"),
        (["--output", "nowhere/a.png"], "nowhere"),
        (["--output", "a.tiff"], ".png"),
    ],
)
def test_a_wrong_setting_is_refused(refused, words: list[str], naming: str) -> None:
    assert naming in refused(*words)


def test_a_mask_of_another_size_is_refused(refused) -> None:
    Image.new("L", (64, 64), 255).save("small.png")
    sentence = refused("--mask", "small.png")
    assert "64x64" in sentence
    assert "96x64" in sentence


def test_a_mask_that_marks_nothing_is_refused(refused) -> None:
    Image.new("L", SIZE).save("black.png")
    assert "marks nothing" in refused("--mask", "black.png")


def test_a_result_too_wide_for_its_format_is_refused_before_it_is_drawn(
    refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageToImage, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr(Inpaint, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    Image.new("L", (16384, 1024)).save("wide.png")
    for words in ([], ["--expand", "32"]):
        assert "WEBP holds 16383" in refused("--output", "new.webp", *words, image="wide.png")
    monkeypatch.setitem(MOST_SIDE, "JPEG", 100)
    assert "128 px" in refused("--output", "new.jpg", "--expand", "0,0,32,0")
    assert "128 px" in refused("--output", "new.jpg", "--size", "128x64")


def test_what_the_result_is_made_from_is_never_replaced(refused) -> None:
    os.link("photo.png", "link.png")
    for output in ("photo.png", "./photo.png", "link.png"):
        assert "another output name" in refused("--output", output)
    assert "mask.png" in refused("--mask", "mask.png", "--output", "mask.png")
    os.rename("link.png", "new-2.png")
    assert "new-2.png" in refused("--num-images", 2, "--output", "new.png")


@pytest.mark.parametrize(
    ("text", "margins"), [("64", (64,) * 4), (" 1, 2,3 ,4", (1, 2, 3, 4)), ("0,0,0,9", (0, 0, 0, 9))]
)
def test_margins_are_read(text: str, margins: tuple[int, int, int, int]) -> None:
    assert parse_margins(text) == margins


@pytest.mark.parametrize("text", ["", "a", "1,2", "1,2,3", "1,2,3,4,5", "-1", "1.5", "1e3", "٣", "1;2;3;4"])
def test_what_are_no_margins_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="such as"):
        parse_margins(text)


def test_a_wrong_strength_is_told_before_the_model_is_looked_for(edit, sana) -> None:
    outcome = sana("edit", "photo.png", "a fox", "--model", "nowhere", "--strength", 2)
    assert outcome.code == 2
    assert "strength = 2.0" in outcome.err
