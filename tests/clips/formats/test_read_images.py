"""Animated images are read as they are shown."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from tests.clips.moving import few_colours

FRAMES = few_colours(4)


def save(path: Path, frames: list[Image.Image], **options) -> Path:
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_what_other_programs_write_is_read_exactly(name: str, tmp_path: Path) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    save(tmp_path / name, [Image.fromarray(frame) for frame in FRAMES], duration=80, **options)
    with open_clip(tmp_path / name) as clip:
        assert (clip.read().frames == FRAMES).all()
        assert (clip.read(2, 2).frames == FRAMES[2:]).all()
        assert (clip.facts.rate, clip.facts.constant_rate, clip.facts.settings) == (Fraction(25, 2), True, {})


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_transparent_pixels_lie_on_white(name: str, tmp_path: Path) -> None:
    frames = []
    for number in range(3):
        image = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
        image.paste((90, 0, 0, 0), (number, 0, number + 1, 8))
        frames.append(image)
    options = (
        {"lossless": True, "exact": True} if name == "a.webp" else {"disposal": 2 if name == "a.gif" else 1}
    )
    save(tmp_path / name, frames, duration=80, **options)
    with open_clip(tmp_path / name) as clip:
        read = clip.read().frames
    for number in range(3):
        assert (read[number, :, number] == 255).all()
        assert (read[number, :, 5] == (10, 20, 30)).all()


def test_the_image_for_programs_without_animation_is_left_out(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in FRAMES]
    save(tmp_path / "a.png", images, duration=80, default_image=True)
    with open_clip(tmp_path / "a.png") as clip:
        assert clip.facts.format == "APNG"
        assert (clip.read().frames == FRAMES[1:]).all()


def test_frames_of_no_time_are_told(tmp_path: Path) -> None:
    save(tmp_path / "a.webp", [Image.fromarray(frame) for frame in FRAMES], duration=5, lossless=True)
    with open_clip(tmp_path / "a.webp") as clip:
        assert clip.facts.rate == 10
        assert clip.facts.notes == ("4 frames state 10 ms or less; they last 100 ms, as in browsers.",)


def test_changing_times_are_told_and_resampled(tmp_path: Path) -> None:
    save(tmp_path / "a.gif", [Image.fromarray(frame) for frame in FRAMES], duration=[100, 400, 100, 200])
    with open_clip(tmp_path / "a.gif") as clip:
        assert not clip.facts.constant_rate
        assert clip.facts.seconds == Fraction(4, 5)
        assert "changing intervals" in clip.read().notes[0]
        assert clip.numbers(rate=10) == [0, 1, 1, 1, 2, 2, 3, 3]
        resampled = clip.read(rate=10)
        assert (resampled.frames[:, 0, 0, 2] == [0, 1, 1, 1, 2, 2, 3, 3]).all()
        assert resampled.notes == (
            "Taken at 10 frames a second of 5, each nearest in time: 0 frames are left out, 4 repeated.",
        )


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_still_image_is_not_a_clip(name: str, tmp_path: Path) -> None:
    Image.fromarray(FRAMES[0]).save(tmp_path / name)
    with pytest.raises(SettingsError, match="is a still image, not a clip: open it as an image"):
        open_clip(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_damaged_bytes_raise_nothing_but_our_error(file_format: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    images = [Image.fromarray(frame) for frame in FRAMES]
    images[0].save(file, file_format, save_all=True, append_images=images[1:], duration=80)
    sound = np.frombuffer(file.getvalue(), np.uint8)
    random, refused = np.random.default_rng(0), 0
    for _ in range(100):
        damaged = sound.copy()
        damaged[random.integers(0, len(sound), 4)] = random.integers(0, 256, 4)
        (tmp_path / "a").write_bytes(damaged.tobytes())
        try:
            with open_clip(tmp_path / "a") as clip:
                clip.read()
        except SettingsError:
            refused += 1
    assert refused > 10
