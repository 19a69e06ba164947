"""Colours of an image with a profile are those that its profile means; what goes out is sRGB."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from sanakit.images.opening import flatten, in_srgb

D50 = (0.9642, 1.0, 0.8249)
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(space: bytes, primaries: tuple = (), gamma: float = 2.19921875) -> bytes:
    """A version 2 display profile of matrix and gamma (RGB), or of gamma alone (GRAY)."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    xyz = [b"XYZ " + bytes(4) + b"".join(map(number, one)) for one in (D50, *primaries)]
    text = b"text" + bytes(4) + b"none\0\0\0\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = [(b"wtpt", xyz[0]), (b"cprt", text), (b"desc", name)]
    if primaries:
        tags += zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz[1:], strict=True)
        tags += [(key, curve) for key in (b"rTRC", b"gTRC", b"bTRC")]
    else:
        tags.append((b"kTRC", curve))
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for key, content in tags:
        content += bytes(-len(content) % 4)
        table += key + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02100000, b"mntr", space, b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + b"".join(map(number, D50))
    header += bytes(128 - len(header))
    return header + struct.pack(">I", len(tags)) + table + body


def one(colour: int | tuple, mode: str, icc: bytes) -> Image.Image:
    image = Image.new(mode, (4, 4), colour)
    image.info["icc_profile"] = icc
    return image


def test_adobe_rgb_becomes_srgb():
    """(200, 60, 40) in Adobe RGB is about (231, 57, 34) in sRGB."""
    flat = flatten(one((200, 60, 40), "RGB", profile(b"RGB ", ADOBE_RGB)))
    assert np.abs(np.subtract(flat.getpixel((1, 1)), (231, 57, 34))).max() <= 2
    assert "icc_profile" not in flat.info


def test_srgb_with_its_own_profile_stays_as_it_is():
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    flat = flatten(one((200, 60, 40), "RGB", icc))
    assert np.abs(np.subtract(flat.getpixel((1, 1)), (200, 60, 40))).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_is_kept_through_a_profile(mode: str):
    image = Image.new("RGBA", (4, 4), (200, 60, 40, 255))
    image.putpixel((0, 0), (200, 60, 40, 0))
    image = image.quantize(4) if mode == "P" else image
    image.info["icc_profile"] = profile(b"RGB ", ADOBE_RGB)
    flat = flatten(image)
    assert flat.getpixel((0, 0)) == (255, 255, 255)
    assert np.abs(np.subtract(flat.getpixel((2, 2)), (231, 57, 34))).max() <= 3


def test_grey_is_brought_from_its_gamma_to_srgb():
    """A value of 128 with gamma 1.0 is half of the light: 188 in sRGB."""
    flat = flatten(one(128, "L", profile(b"GRAY", gamma=1.0)))
    assert np.abs(np.subtract(flat.getpixel((1, 1)), 188)).max() <= 2
    assert flat.mode == "RGB"
    assert "icc_profile" not in flat.info


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_counts_as_transparent_does_so_through_a_profile(mode: str):
    colour, space = (128, profile(b"GRAY")) if mode == "L" else ((200, 60, 40), profile(b"RGB ", ADOBE_RGB))
    image = one(colour, mode, space)
    image.putpixel((0, 0), 0 if mode == "L" else (0, 0, 0))
    image.info["transparency"] = colour
    flat = flatten(image)
    assert flat.getpixel((0, 0)) == (0, 0, 0)
    assert flat.getpixel((1, 1)) == (255, 255, 255)


def test_grey_of_16_bits_has_the_colours_of_its_8_bit_twin():
    icc = profile(b"GRAY", gamma=1.0)
    wide = Image.fromarray(np.full((4, 4), 128 * 256, dtype=np.uint16))
    wide.info["icc_profile"] = icc
    assert flatten(wide).getpixel((1, 1)) == flatten(one(128, "L", icc)).getpixel((1, 1))


def test_nothing_but_pixels_is_taken_over():
    image = Image.new("RGB", (4, 4), "red")
    image.info |= {"comment": b"for your eyes only", "dpi": (72, 72), "exif": b"Exif\0\0"}
    assert flatten(image).info == {}
    assert "comment" in image.info


@pytest.mark.parametrize("icc", [b"no profile at all", profile(b"GRAY")])
def test_a_profile_that_does_not_fit_is_left_out(icc: bytes):
    image = in_srgb(one((200, 60, 40), "RGB", icc))
    assert image.getpixel((0, 0)) == (200, 60, 40)
    assert "icc_profile" not in image.info


def test_an_image_without_a_profile_is_the_very_same():
    image = Image.new("RGB", (4, 4))
    assert in_srgb(image) is image
