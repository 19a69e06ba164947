"""Files of clips: as every reader of clips reads them, MP4 where PyAV is, else animated WebP."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats import pyav
from sanakit.clips.reading import open_clip
from sanakit.errors import MissingExtraError, SettingsError
from sanakit.serve.jobs import clip_files
from sanakit.serve.jobs.clip_files import MEDIA_TYPES, check_format, clip_file, usual_format

SETTINGS = {"prompt": "a red apple", "seed": 7, "steps": 2}


def moving(frames: int = 5) -> np.ndarray:
    """A bright square that moves to the right."""
    clip = np.zeros((frames, 64, 96, 3), np.uint8)
    for number in range(frames):
        clip[number, 16:48, 8 * number : 8 * number + 32] = (230, 60, 40)
    return clip


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_a_file_holds_the_frames_and_the_settings(format: str, tmp_path: Path) -> None:
    if format == "mp4":
        pytest.importorskip("av")
    data, notes = clip_file(VideoClip(frames=moving(), rate=Fraction(16), settings=SETTINGS), format)
    path = tmp_path / "without-a-suffix"
    path.write_bytes(data)
    with open_clip(path) as file:
        clip, facts = file.read(), file.facts
    assert {"MP4": "video/mp4", "WebP": "image/webp"}[facts.format] == MEDIA_TYPES[format]
    assert np.abs(clip.frames.astype(int) - moving()).mean() < 6
    assert (clip.settings, clip.rate) == (SETTINGS, 16)
    assert bool(notes) == (format == "webp")  # its times are whole thousandths of a second


def test_the_format_is_mp4_where_pyav_is_and_webp_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingExtraError("av", "video", pyav.WITHOUT)

    monkeypatch.setattr(clip_files, "load_av", lambda: None)
    assert usual_format() == "mp4"
    monkeypatch.setattr(clip_files, "load_av", absent)
    assert usual_format() == "webp"


@pytest.mark.parametrize(("format", "width", "rate"), [("mp4", 97, 16), ("webp", 96, 100)])
def test_what_a_format_cannot_hold_is_told_before_it_is_drawn(format: str, width: int, rate: int) -> None:
    check_format("webp", width=97, height=64, rate=Fraction(16), settings=SETTINGS)
    with pytest.raises(SettingsError):
        check_format(format, width=width, height=64, rate=Fraction(rate), settings=SETTINGS)
