"""Animated WebP and GIF, frame by frame: Pillow encodes each frame, which is put into the animation.

Pillow's own writers of animations hold all frames in memory, and write a single frame as a still image.
Sources: the WebP container specification (VP8X, ANIM, ANMF), the GIF89a specification.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from sanakit.clips.formats.animation import exif_comment, gif_blocks, skip_gif_screen
from sanakit.clips.formats.plan import AddFrame, WritePlan
from sanakit.errors import OutputError

LOSSLESS = 100  # the quality from which on a WebP is lossless
_ANIMATED, _WITH_EXIF, _NOT_BLENDED = 0x02, 0x08, 0x02  # flags
_LARGEST = 2**32 - 2**16  # bytes of a WebP file
_LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"  # for ever
_IN_PLACE = 0x04  # a GIF's frame stays until the next one is drawn over it


@contextmanager
def write_webp(partial: Path, plan: WritePlan) -> Iterator[AddFrame]:
    """Write an animated WebP that repeats for ever. Frames do not depend on each other."""
    sides = _low(plan.width - 1, 3) + _low(plan.height - 1, 3)
    count = 0
    with partial.open("wb") as file:

        def add(frame: np.ndarray) -> None:
            nonlocal count
            content = (
                sides + _low(plan.ticks(count, 1000), 3) + bytes([_NOT_BLENDED]) + _webp_image(frame, plan)
            )
            if file.tell() + len(content) > _LARGEST:
                raise OutputError("A WebP file holds 4 GB at most: choose .mp4, or a shorter clip.")
            file.write(_chunk(b"ANMF", b"\0" * 6 + content))
            count += 1

        file.write(b"RIFF\0\0\0\0WEBP")
        file.write(_chunk(b"VP8X", bytes([_ANIMATED | _WITH_EXIF, 0, 0, 0]) + sides))
        file.write(_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0"))  # white, for ever
        yield add
        file.write(_chunk(b"EXIF", exif_comment(plan.comment)))
        size = file.tell() - 8
        file.seek(4)
        file.write(_low(size, 4))


@contextmanager
def write_gif(partial: Path, plan: WritePlan) -> Iterator[AddFrame]:
    """Write a GIF that repeats for ever, each frame with a palette of its own."""
    count = 0
    with partial.open("wb") as file:

        def add(frame: np.ndarray) -> None:
            nonlocal count
            delay = plan.ticks(count, 100)
            file.write(b"\x21\xf9\x04" + bytes([_IN_PLACE]) + _low(delay, 2) + b"\0\0" + _gif_image(frame))
            count += 1

        file.write(b"GIF89a" + _low(plan.width, 2) + _low(plan.height, 2) + b"\x70\0\0" + _LOOP)
        file.write(b"\x21\xfe" + _in_blocks(plan.comment.encode("ascii")))
        yield add
        file.write(b"\x3b")


def few_colours(frame: np.ndarray) -> Image.Image:
    """Return a frame (H W 3) with a palette by the median cut, which is exact for up to 256 colours."""
    return Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _webp_image(frame: np.ndarray, plan: WritePlan) -> bytes:
    """Return the chunk VP8 or VP8L of a frame."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "WEBP", quality=plan.quality, lossless=plan.quality >= LOSSLESS)
    data = file.getvalue()
    assert data[12:16] in (b"VP8 ", b"VP8L")  # an opaque image without metadata has nothing before it
    return data[12:]


def _gif_image(frame: np.ndarray) -> bytes:
    """Return a frame as a GIF's image block, with its palette."""
    file = io.BytesIO()
    few_colours(frame).save(file, "GIF", optimize=False)
    file.seek(0)
    _, _, palette = skip_gif_screen(file)
    for kind, header, data in gif_blocks(file):
        if kind == 0x2C:
            if not header[8] & 0x80:  # its palette is that of the file
                bits = (len(palette) // 3).bit_length() - 2
                header = header[:8] + bytes([header[8] | 0x80 | bits]) + palette
            return b"\x2c" + header + data
    raise AssertionError("Pillow wrote a GIF without an image")


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + _low(len(content), 4) + content + b"\0" * (len(content) % 2)


def _in_blocks(data: bytes) -> bytes:
    blocks = (data[start : start + 255] for start in range(0, len(data), 255))
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def _low(number: int, count: int) -> bytes:
    return number.to_bytes(count, "little")
