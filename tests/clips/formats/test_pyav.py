"""Without PyAV a sentence names the extra and the formats that work; they do work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats.pyav import load_av
from sanakit.clips.reading import describe_clip, open_clip
from sanakit.errors import MissingExtraError
from tests.clips.moving import moving

TOLD = r"'av': pip install 'sanakit\[video\]'\. Without it \.webp, \.gif and folders of frames work\."


def test_the_package_is_the_extra() -> None:
    assert load_av().__name__ == "av"


def test_videos_need_it_and_images_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = VideoClip(frames=moving(3), rate=16)  # pyright: ignore[reportArgumentType]
    for name in ("old.mp4", "old.webm"):
        clip.save(tmp_path / name)
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("new.mp4", "new.webm"):
        with pytest.raises(MissingExtraError, match=TOLD):
            clip.save(tmp_path / name)
        assert not (tmp_path / name).exists()
    for name in ("old.mp4", "old.webm"):
        with pytest.raises(MissingExtraError, match=TOLD):
            open_clip(tmp_path / name)
        with pytest.raises(MissingExtraError, match=TOLD):
            describe_clip(tmp_path / name)
    for name in ("new.webp", "new.gif", "new"):
        clip.save(tmp_path / name)
        with open_clip(tmp_path / name) as again:
            assert again.read().frames.shape == clip.frames.shape
