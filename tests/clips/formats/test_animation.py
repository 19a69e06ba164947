"""Durations, comments and ends of animated images are found without decoding."""

from __future__ import annotations

import io
from fractions import Fraction

import pytest
from PIL import Image

from sanakit.clips.formats.animation import (
    Animation,
    chunks,
    exif_comment,
    gif_blocks,
    is_animated,
    read_animation,
    skip_gif_screen,
)
from sanakit.errors import SettingsError

FRAMES = [Image.new("RGB", (12, 8), (50 * n, 0, 200)) for n in range(3)]
FORMATS = ("WebP", "GIF", "PNG")
every_format = pytest.mark.parametrize("file_format", FORMATS)


def stored(file_format: str, durations: list[int] | None = None, frames=FRAMES, **options) -> bytes:
    file = io.BytesIO()
    timing = (
        {} if durations is None else {"duration": durations, "save_all": True, "append_images": frames[1:]}
    )
    frames[0].save(file, file_format, **timing, **options)
    return file.getvalue()


def read(data: bytes, file_format: str) -> Animation | None:
    return read_animation(io.BytesIO(data), file_format, "cat")


@every_format
def test_what_pillow_writes_is_read_exactly(file_format: str) -> None:
    animation = read(stored(file_format, [40, 250, 1230]), file_format)
    assert animation is not None
    assert animation.durations == [Fraction(1, 25), Fraction(1, 4), Fraction(123, 100)]
    assert (animation.width, animation.height, animation.slowed) == (12, 8, 0)


@every_format
def test_frames_of_no_time_last_as_in_browsers(file_format: str) -> None:
    animation = read(stored(file_format, [0, 10, 20]), file_format)
    assert animation is not None
    assert animation.durations == [Fraction(1, 10), Fraction(1, 10), Fraction(1, 50)]
    assert animation.slowed == 2


@pytest.mark.parametrize(("file_format", "moves"), [("WebP", False), ("PNG", False), ("GIF", True)])
def test_a_still_image_is_not_animated(file_format: str, moves: bool) -> None:
    """A GIF states a time even for one frame."""
    assert is_animated(io.BytesIO(stored(file_format)), file_format, "cat") is moves
    assert is_animated(io.BytesIO(stored(file_format, [40, 40, 40])), file_format, "cat")


def test_the_image_for_programs_without_animation_is_not_a_frame() -> None:
    animation = read(stored("PNG", [40, 40, 40], default_image=True), "PNG")
    assert animation is not None
    assert animation.hidden_first
    assert len(animation.durations) == 2


@every_format
def test_a_file_cut_anywhere_is_refused(file_format: str) -> None:
    data = stored(file_format, [40, 40, 40])
    for length in range(8, len(data)):
        with pytest.raises(SettingsError, match=r"cat is damaged or cut off \("):
            read(data[:length], file_format)


def test_an_animated_png_has_as_many_frames_as_it_states() -> None:
    data = stored("PNG", [40, 40, 40])
    more = data.replace(b"acTL\0\0\0\3", b"acTL\0\0\0\4")
    with pytest.raises(SettingsError, match="3 of 4 frames are there"):
        read(more, "PNG")


def test_comments_are_found() -> None:
    webp = read(stored("WebP", [40, 40, 40], exif=exif_comment('{"a": 1}')), "WebP")
    gif = read(stored("GIF", [40, 40, 40], comment=b"a" * 700), "GIF")
    assert webp is not None
    assert gif is not None
    assert (webp.comment, gif.comment) == ('{"a": 1}', "a" * 700)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"", b"junk", b"II*\0\xff\xff\xff\xff", exif_comment("x" * 50)[:40]])
def test_damaged_exif_data_never_cost_a_sound_clip(exif: bytes) -> None:
    animation = read(stored("WebP", [40, 40, 40], exif=exif), "WebP")
    assert animation is not None
    assert len(animation.durations) == 3


def test_blocks_and_chunks_are_yielded_in_order() -> None:
    gif = io.BytesIO(stored("GIF", [40, 40, 40]))
    assert skip_gif_screen(gif)[:2] == (12, 8)
    kinds = [kind for kind, _, _ in gif_blocks(gif)]
    assert kinds.count(0x2C) == kinds.count(0xF9) == 3
    webp = stored("WebP", [40, 40, 40])
    names = [name for name, _, _ in chunks(io.BytesIO(webp), len(webp))]
    assert names == [b"VP8X", b"ANIM", b"ANMF", b"ANMF", b"ANMF"]
