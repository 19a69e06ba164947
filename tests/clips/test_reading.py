"""Any clip is opened by its content, or refused in a sentence; windows and rates."""

from __future__ import annotations

import os
import socket
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips import reading
from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import describe_clip, open_clip
from sanakit.errors import SanaError, SettingsError
from tests.clips.moving import moving

NAMES = ("a.mp4", "a.webm", "a.webp", "a.gif", "a")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    clip = VideoClip(frames=moving(24), rate=Fraction(24), settings={"seed": 1})
    for name in NAMES:
        clip.save(folder / name)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_windows_tile_the_clip_at_any_rate(name: str, clips: Path) -> None:
    with open_clip(clips / name) as clip:
        for rate in (None, 24, 8, "29.97", 60):
            whole = clip.read(rate=rate)
            count = clip.count(rate)
            assert len(whole.frames) == count
            half = count // 2
            parts = [clip.read(0, half, rate).frames, clip.read(half, None, rate).frames]
            assert (np.concatenate(parts) == whole.frames).all()
        assert (clip.read(rate=8).frames == clip.read().frames[::3]).all()
        assert clip.count(8) == 8
        one_by_one = list(clip.frames(3, 4))
        assert (np.stack(one_by_one) == clip.read(3, 4).frames).all()


@pytest.mark.parametrize(("start", "count"), [(0, 25), (24, None), (-1, 3), (0, 0), (20, 5)])
def test_a_window_outside_the_clip_is_refused(start: int, count: int | None, clips: Path) -> None:
    with open_clip(clips / "a.mp4") as clip:
        with pytest.raises(SettingsError, match=r"has the frames 0 to 23, not .* choose another window"):
            clip.numbers(start, count)
        with pytest.raises(SettingsError, match="0 to 7 at 8 frames a second"):
            clip.numbers(8, 1, 8)


def test_a_changed_rate_is_told(clips: Path) -> None:
    with open_clip(clips / "a.webm") as clip:
        assert clip.read(rate=24).notes == ()
        assert clip.read(rate=16).notes == (
            "Taken at 16 frames a second of 24, each nearest in time: 7 frames are left out, 0 repeated.",
        )
        assert clip.read(rate=48).notes[0].endswith("0 frames are left out, 24 repeated.")
        assert clip.read(rate=16).rate == 16


def test_more_than_fits_in_memory_is_refused(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 64 * 48 * 3 * 10)
    with open_clip(clips / "a.mp4") as clip:
        clip.read(0, 10)
        with pytest.raises(SettingsError, match=r"would take .* GB of memory.*a shorter window"):
            clip.read(0, 11)
        assert sum(1 for _ in clip.frames()) == 24


@pytest.mark.parametrize("name", NAMES[:-1])
def test_content_decides_and_not_the_name(name: str, clips: Path, tmp_path: Path) -> None:
    os.link(clips / name, tmp_path / "a.txt")
    with open_clip(tmp_path / "a.txt") as clip, open_clip(clips / name) as named:
        assert clip.facts.format == named.facts.format
        assert (clip.read().frames == named.read().frames).all()


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_clip_cut_anywhere_is_refused_by_name(name: str, clips: Path, tmp_path: Path) -> None:
    data = (clips / name).read_bytes()
    cut = tmp_path / "cut"
    for length in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}:
        cut.write_bytes(data[:length])
        with pytest.raises(SettingsError, match=rf"{cut} is (damaged or cut off|not a clip)"):
            open_clip(cut)


@pytest.mark.parametrize(
    "name",
    [
        "http://localhost:9/a.mp4",
        "concat:a.mp4|a.mp4",
        "file:a.mp4",
        "pipe:0",
        "missing.mp4",
        "a\0.mp4",
        "",
        "fifo",
    ],
)
def test_names_are_files_and_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        pytest.fail("it reached for the network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    VideoClip(frames=moving(2), rate=Fraction(16)).save("a.mp4")
    os.mkfifo("fifo")
    with pytest.raises(SettingsError, match="cannot be read"):
        open_clip(name)
    assert describe_clip(name) is None


@pytest.mark.parametrize(
    "data",
    [b"#EXTM3U\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n", b"ffconcat version 1.0\nfile a.mp4\n", b"holiday", b""],
)
def test_lists_of_files_are_not_clips(data: bytes, tmp_path: Path) -> None:
    VideoClip(frames=moving(2), rate=Fraction(16)).save(tmp_path / "a.mp4")
    for name in ("list.m3u8", "list.mp4"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingsError, match="is not a clip that can be read: use MP4"):
            open_clip(tmp_path / name)
        assert describe_clip(tmp_path / name) is None


def test_a_rate_is_asked_of_folders_alone(clips: Path) -> None:
    with pytest.raises(SettingsError, match="states its own rate"):
        open_clip(clips / "a.gif", folder_rate=16)


def test_clips_are_told_from_other_things(clips: Path, tmp_path: Path) -> None:
    for name in NAMES:
        facts = describe_clip(clips / name)
        assert facts is not None
        assert (facts.frames, facts.rate, facts.settings) == (24, 24, {"seed": 1})
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp")
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + b"\0" * 40)
    for name in ("a.png", "a.webp", "model.safetensors", ".", "missing"):
        assert describe_clip(tmp_path / name) is None
    (tmp_path / "cut.mp4").write_bytes((clips / "a.mp4").read_bytes()[:-1])
    with pytest.raises(SanaError, match="damaged or cut off"):
        describe_clip(tmp_path / "cut.mp4")


def test_a_file_is_closed_after_its_block(clips: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in NAMES:
        with open_clip(clips / name) as clip:
            next(clip.frames())
    assert len(os.listdir("/proc/self/fd")) == before
