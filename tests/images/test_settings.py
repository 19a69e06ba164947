"""Settings in files: read back from every format, and found where other programs look."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from strict_png import faults_of

from sanakit.errors import SettingsError
from sanakit.images.image import encode, save
from sanakit.images.settings import file_options, read_metadata, user_comment

SETTINGS = {
    **{"prompt": "naïve fox 狐狸 🦊\nNegative prompt: in two lines", "negative_prompt": "", "width": 48},
    **{"height": 32, "steps": 3, "guidance": 4.5, "solver": "dpm", "seed": 2**63, "model": "ti, ny"},
    **{"prompt_weights": True, "fingerprint": "195fc73a70fb", "score": 31.25, "version": "0.1.0"},
    **{"upscale": 2.0, "upscale_strength": 0.25, "upscale_model": "big"},
}
IMAGE = Image.new("RGB", (48, 32), "teal")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_format_gives_all_settings_back(tmp_path: Path, suffix: str) -> None:
    assert read_metadata(save(IMAGE, tmp_path / f"fox.{suffix}", SETTINGS)) == SETTINGS


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_without_settings_stays_without(tmp_path: Path, suffix: str) -> None:
    path = save(IMAGE, tmp_path / f"fox.{suffix}")
    with Image.open(path) as opened:
        assert not opened.getexif()
        assert "parameters" not in opened.info
    with pytest.raises(SettingsError, match="carries no settings"):
        read_metadata(path)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_the_user_comment_is_what_other_programs_read(file_format: str) -> None:
    with Image.open(io.BytesIO(encode(IMAGE, file_format, SETTINGS))) as opened:
        exif = opened.getexif()
        raw = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert raw.startswith(b"UNICODE\0")
        assert raw[8:].decode("utf-16-be") == user_comment(opened)
        assert user_comment(opened).startswith("naïve fox 狐狸 🦊\nNegative prompt: in two lines\nSteps: 3, ")
        assert exif[ExifTags.Base.Software].startswith("sanakit ")


@pytest.mark.parametrize(
    ("prompt", "kind"), [("a fox\nin snow", b"tEXt"), ("", b"tEXt"), ("naïve", b"iTXt"), ("bell \7", b"iTXt")]
)
def test_plain_text_is_a_plain_chunk(prompt: str, kind: bytes) -> None:
    data = encode(IMAGE, "PNG", SETTINGS | {"prompt": prompt})
    assert kind + b"prompt\0" in data
    assert kind + b"parameters\0" in data
    assert faults_of(data) == []


def test_settings_that_a_jpeg_has_no_room_for_are_told(tmp_path: Path) -> None:
    long = SETTINGS | {"prompt": "an apple, " * 4000}
    with pytest.warns(UserWarning, match="save it as PNG"):
        path = save(IMAGE, tmp_path / "fox.jpg", long)
    with Image.open(path) as opened:
        assert not opened.getexif()
    with warnings.catch_warnings(action="error"):
        assert read_metadata(save(IMAGE, tmp_path / "fox.webp", long)) == long
        room = SETTINGS | {"prompt": "a" * 20_000}
        assert read_metadata(save(IMAGE, tmp_path / "room.jpg", room)) == room


@pytest.mark.parametrize(
    "note", [b"", b"{}", b"[1]", b"\xff", b'{"sanakit": 3}', b'{"sanakit": {"size": 3}}', b"[" * 50_000]
)
def test_another_maker_note_is_none_of_ours(tmp_path: Path, note: bytes) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = note
    IMAGE.save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(SettingsError, match="carries no settings"):
        read_metadata(tmp_path / "a.jpg")


def test_the_note_is_ascii_json() -> None:
    """So that no program that copies it changes it."""
    exif = file_options("WEBP", SETTINGS, 90)["exif"]
    note = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote]
    assert note.isascii()
    assert json.loads(note)["sanakit"]["size"] == "48x32"
