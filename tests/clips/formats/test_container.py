"""Formats are told by content; a video that was cut off anywhere is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats.container import READ, check_whole, format_of, not_a_clip
from sanakit.errors import SettingsError
from tests.clips.moving import moving

FORMATS = {"a.mp4": "MP4", "a.webm": "WebM", "a.webp": "WebP", "a.gif": "GIF"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder: Path = tmp_path_factory.mktemp("clips")
    clip = VideoClip(frames=moving(6), rate=16)  # pyright: ignore[reportArgumentType]
    return {name: clip.save(folder / name)[0].read_bytes() for name in FORMATS}


def test_content_decides(files: dict[str, bytes]) -> None:
    for name, file_format in FORMATS.items():
        assert format_of(io.BytesIO(files[name])) == file_format
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    assert format_of(png) == "PNG"
    assert format_of(io.BytesIO(files["a.mp4"].replace(b"isom", b"qt  ", 1))) == "MOV"
    assert format_of(io.BytesIO(b"\0\0\0\x08wide" + b"\0" * 8)) == "MOV"
    assert format_of(io.BytesIO(files["a.webm"].replace(b"webm", b"mkv_", 1))) == "Matroska"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"a holiday",
        b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n",
        b"ffconcat version 1.0\nfile 'a.mp4'\n",
        b"RIFF\0\0\0\0AVI LIST",
        b"RIFF\0\0\0\0WAVE",
        b"\xff\xd8\xff\xe0" + b"\0" * 60,
        b"\x47" * 188 * 4,
    ],
)
def test_anything_else_is_none_of_them(data: bytes) -> None:
    assert format_of(io.BytesIO(data)) is None
    assert READ in str(not_a_clip("cat"))


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_a_video_cut_anywhere_is_refused(name: str, files: dict[str, bytes]) -> None:
    data = files[name]
    check_whole(io.BytesIO(data), FORMATS[name], name)
    for length in range(16, len(data)):
        with pytest.raises(SettingsError, match=rf"{name} is damaged or cut off \("):
            check_whole(io.BytesIO(data[:length]), FORMATS[name], name)


def test_a_video_without_its_index_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(SettingsError, match="its index is missing"):
        check_whole(io.BytesIO(files["a.mp4"].replace(b"moov", b"free", 1)), "MP4", "a.mp4")


def test_parts_may_reach_to_the_end_or_have_64_bit_sizes(files: dict[str, bytes]) -> None:
    data = files["a.mp4"]
    at = data.index(b"mdat")
    if int.from_bytes(data[at - 4 : at], "big") == len(data) - at + 4:
        check_whole(io.BytesIO(data[: at - 4] + b"\0\0\0\0" + data[at:]), "MP4", "a.mp4")
        large = b"\0\0\0\1mdat" + (len(data) - at + 12).to_bytes(8, "big") + data[at + 4 :]
        check_whole(io.BytesIO(data[: at - 4] + large), "MP4", "a.mp4")
        with pytest.raises(SettingsError):
            check_whole(io.BytesIO(data[: at - 4] + large[:-1]), "MP4", "a.mp4")
    else:
        pytest.fail("the frames are not at the end")


def test_a_live_webm_states_no_size(files: dict[str, bytes]) -> None:
    data = files["a.webm"]
    at = data.index(b"\x18\x53\x80\x67") + 4
    check_whole(io.BytesIO(data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :]), "WebM", "a.webm")
