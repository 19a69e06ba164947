"""Animated WebP and GIF: exact where the format can be, and valid to Pillow's own readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageSequence

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats.write_images import few_colours as with_palette
from sanakit.clips.reading import open_clip
from tests.clips.moving import few_colours, moving, psnr


def save(path: Path, frames: np.ndarray, quality: int | None = None, rate: int = 24) -> None:
    VideoClip(frames=frames, rate=rate, settings={"seed": 3}).save(path, quality)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("colours", [1, 2, 3, 16, 255, 256])
def test_up_to_256_colours_a_frame_are_exact_in_a_gif(colours: int, tmp_path: Path) -> None:
    random = np.random.default_rng(colours)
    palette = random.integers(0, 256, (colours, 3), dtype=np.uint8)
    frames = palette[random.integers(0, colours, (4, 20, 31))]
    save(tmp_path / "a.gif", frames)
    with open_clip(tmp_path / "a.gif") as clip:
        assert (clip.read().frames == frames).all()


def test_more_colours_are_rounded_to_256() -> None:
    frame = moving(1)[0]
    image = with_palette(frame)
    assert len(image.getcolors(256) or []) <= 256
    assert psnr(np.asarray(image.convert("RGB")), frame) > 35


def test_a_webp_of_quality_100_is_exact(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 21, 31, 3), dtype=np.uint8)
    save(tmp_path / "a.webp", frames, 100)
    with open_clip(tmp_path / "a.webp") as clip:
        assert (clip.read().frames == frames).all()
    save(tmp_path / "a.webp", frames, 99)
    with open_clip(tmp_path / "a.webp") as clip:
        assert not (clip.read().frames == frames).all()


@pytest.mark.parametrize("name", ["a.webp", "a.gif"])
@pytest.mark.parametrize("count", [1, 5])
def test_pillow_reads_the_same_frames_times_and_loop(name: str, count: int, tmp_path: Path) -> None:
    frames = few_colours(count)
    save(tmp_path / name, frames, 100 if name == "a.webp" else None)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == count  # pyright: ignore[reportAttributeAccessIssue]
        shown = [
            (np.asarray(frame.convert("RGB")), frame.info["duration"])
            for frame in ImageSequence.Iterator(image)
        ]
        assert image.info["loop"] == 0
    assert all((one == frame).all() for (one, _), frame in zip(shown, frames, strict=True))
    steps = {"a.webp": [42, 41, 42, 42, 41], "a.gif": [40, 40, 40, 50, 40]}[name]
    assert [duration for _, duration in shown] == steps[:count]


def test_settings_stand_where_other_programs_look(tmp_path: Path) -> None:
    save(tmp_path / "a.webp", few_colours(2))
    save(tmp_path / "a.gif", few_colours(2))
    with Image.open(tmp_path / "a.webp") as image:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment == b'ASCII\0\0\0{"sanakit": {"seed": 3}, "rate": "24"}'
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["comment"] == b'{"sanakit": {"seed": 3}, "rate": "24"}'
    data = (tmp_path / "a.webp").read_bytes()
    assert data[data.index(b"EXIF") + 8 :][:2] in (b"II", b"MM"), "a WebP's Exif data begin at once"


def test_settings_longer_than_a_block_are_kept_in_a_gif(tmp_path: Path) -> None:
    prompt = "a cat " * 200
    clip = VideoClip(frames=few_colours(1), rate=9, settings={"prompt": prompt})  # pyright: ignore[reportArgumentType]
    clip.save(tmp_path / "a.gif")
    with open_clip(tmp_path / "a.gif") as again:
        assert again.facts.settings == {"prompt": prompt}
