"""Folders of frames: exact, in order, whole; what is not a frame is told."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from tests.clips.moving import moving


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    clip = VideoClip(frames=moving(12), rate=Fraction(24000, 1001), settings={"prompt": "☃"})
    return clip.save(tmp_path / "cat")[0]


def foreign(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / name)
    return folder


def test_frames_and_index_are_as_documented(ours: Path) -> None:
    assert sorted(path.name for path in ours.iterdir()) == [f"{n:06}.png" for n in range(12)] + ["clip.json"]
    index = json.loads((ours / "clip.json").read_text())
    assert index == {
        "frames": 12,
        "width": 64,
        "height": 48,
        "sanakit": {"prompt": "☃"},
        "rate": "24000/1001",
    }
    with open_clip(ours) as clip:
        assert (clip.read().frames == moving(12)).all()
        assert (clip.read(3, 2).frames == moving(12)[3:5]).all()
        assert (clip.facts.format, clip.facts.codec) == ("frame folder", "png")


def test_a_missing_frame_is_damage(ours: Path) -> None:
    (ours / "000005.png").unlink()
    with pytest.raises(SettingsError, match=r"damaged or cut off \(11 of 12 frames are there\)"):
        open_clip(ours)


def test_a_broken_frame_is_named(ours: Path) -> None:
    data = (ours / "000005.png").read_bytes()
    (ours / "000005.png").write_bytes(data[:100])
    with open_clip(ours) as clip, pytest.raises(SettingsError, match=r"000005\.png is damaged"):
        clip.read()


def test_a_frame_of_another_size_is_refused(ours: Path) -> None:
    Image.new("RGB", (8, 8)).save(ours / "000003.png")
    with (
        open_clip(ours) as clip,
        pytest.raises(SettingsError, match=r"000003.png is 8x8, the first frame 64x48"),
    ):
        clip.read()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"frames": "12", "sanakit": {}, "rate": "16"}', "\xff"])
def test_a_broken_index_is_refused(text: str, ours: Path) -> None:
    (ours / "clip.json").write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match=r"clip\.json cannot be read: delete it"):
        open_clip(ours)


def test_the_rate_of_an_index_is_not_overruled(ours: Path) -> None:
    with pytest.raises(SettingsError, match="24000/1001 frames a second, not 16"):
        open_clip(ours, folder_rate=16)
    with open_clip(ours, folder_rate="23.976") as clip:
        assert clip.facts.frames == 12


def test_any_numbered_images_are_a_clip_when_their_rate_is_given(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", "shot2_9.jpg", "shot2_10.png", "shot2_12.PNG", ".hidden1.png")
    (folder / "notes.txt").touch()
    Image.new("RGB", (2, 2)).save(folder / "cover.png")
    with pytest.raises(SettingsError, match=r"no clip\.json, so its rate is unknown: give the rate"):
        open_clip(folder)
    with open_clip(folder, folder_rate=8) as clip:
        levels = clip.read().frames[:, 0, 0, 0]
        assert np.abs(levels.astype(int) - [0, 1, 2]).max() <= 1
        assert clip.facts.rate == 8
        assert clip.facts.notes == (
            "Left out, as they are not frames: cover.png, notes.txt.",
            "1 numbers between the first frame and the last are missing.",
        )


def test_two_frames_of_one_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a1\.png and b1\.png, two frames of one number"):
        open_clip(foreign(tmp_path / "a", "a1.png", "b1.png"), folder_rate=8)


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no frames: name them 000000\.png"):
        open_clip(foreign(tmp_path / "a", "cover.png"), folder_rate=8)
