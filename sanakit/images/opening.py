"""Open any image: its header first, then all of it, upright, on white where it is transparent.

A file may be damaged, hostile or huge; every defect becomes a sentence for the user.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from sanakit.errors import SettingsError, SizeError
from sanakit.reading import check_file

COMMON_FORMATS = ("PNG", "JPEG", "WEBP")  # as Pillow calls them
ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")  # other files of several images hold pages, or previews
MAX_PIXELS = 2**26  # of a source: 67 million, 8192 x 8192
# The transposition that makes an image upright, by its EXIF orientation.
_TELL_ORIENTATION = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # keys of Pillow's `info`
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    file: str | os.PathLike[str] | BinaryIO, what: str, formats: tuple[str, ...] = COMMON_FORMATS
) -> Image.Image:
    """Read an image whole; its header first, so that a small file cannot ask for gigabytes.

    what: the file, at the beginning of a message. formats: that are decoded, whatever the file is called.
    Raises SettingsError for what is none of them, damaged or an animation, of which one image would stand for
    all; SizeError for more than MAX_PIXELS.
    """
    animated = False
    try:
        if isinstance(file, str | os.PathLike):
            check_file(file)
        with Image.open(file, formats=formats) as image:  # reads the header
            animated = image.format in ANIMATED and getattr(image, "is_animated", False)
            if image.width * image.height <= MAX_PIXELS and not animated:
                image.load()
                return image
    except Image.DecompressionBombError:
        pass
    except Exception as error:  # whatever the decoders make of a damaged or hostile file
        reason = getattr(error, "strerror", None)  # of the system: it could not be opened
        wrong = f"cannot be read ({reason})" if reason else "is damaged, or not an image"
        raise SettingsError(f"{what} {wrong}: use an intact PNG, JPEG or WebP file.") from None
    if animated:
        raise SettingsError(f"{what} is an animation, not one image: save the frame that is meant as PNG.")
    raise SizeError(f"{what} has too many pixels: use one of at most {MAX_PIXELS // 10**6} million.")


def flatten(image: Image.Image) -> Image.Image:
    """Return an image as RGB: upright, in sRGB, on white where it is transparent, in 8 bits.

    Nothing but the pixels is taken over: comments, resolution and EXIF data stay behind.
    Raises SettingsError for what is not an image or too large, or whose file is damaged.
    """
    with decoding("image"):
        turned = in_srgb(upright(image))
        if turned.has_transparency_data:
            layered = turned.convert("RGBA")
            turned = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
        flat = turned.convert("RGB")  # a copy
        flat.info = {}
        return flat


def in_srgb(image: Image.Image) -> Image.Image:
    """Return the image with its colours in sRGB and without a profile.

    The colours of an image with a profile are converted through it, its transparency is kept. A profile that
    is damaged, or made for another kind of image, is left out: its values then count as sRGB.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    plain = image.copy()
    del plain.info["icc_profile"]
    if plain.has_transparency_data:  # of its own channel, or of one colour that counts as transparent
        plain = plain.convert("LA" if plain.mode in ("1", "L", "LA") else "RGBA")
    elif plain.mode == "P":
        plain = plain.convert("RGB")
    alpha = plain.getchannel("A") if plain.mode in ("RGBA", "LA") else None
    colours = plain if alpha is None else plain.convert(plain.mode[:-1])
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return plain
    assert converted is not None  # as it is not converted in place
    converted.info = dict(plain.info)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def upright(image: Image.Image) -> Image.Image:
    """Return the decoded image, turned as its EXIF orientation says, its values brought to 8 bits.

    Raises SettingsError for values of unknown range.
    """
    _check(image)
    image.load()  # first: the reader of TIFF files turns them itself
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise what their reader stumbles over; the pixels are sound
        turn = None
    turned = image if turn is None else image.transpose(turn)
    if turn is not None:  # what is upright must not be turned again
        turned.info = {key: value for key, value in turned.info.items() if key not in _TELL_ORIENTATION}
    return _eight_bits(turned)


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn Pillow's errors for a damaged file, which may come at any time, into SettingsError."""
    try:
        yield
    except (SettingsError, MemoryError):
        raise
    except Exception as error:  # its readers raise anything from SyntaxError to struct.error
        raise SettingsError(f"The {what} cannot be decoded ({error}): save it again as PNG.") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image in 8 bits, where Pillow would cut its values at 255 instead of scaling them.

    Whole numbers of 32 bits count as 8 bits if none is above 255, else as 16; fractions as shares of white if
    none is above 1, else as levels. Raises SettingsError for values of another range.
    """
    clear = image.info.get("transparency")  # of 16-bit PNG files: one value, or three, in 16 bits
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        image = image.copy()  # its pixels are their upper 8 bits
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    lowest, highest = values.min().item(), values.max().item()
    if not 0 <= lowest <= highest <= (255 if image.mode == "F" else 65535):  # false for NaN
        raise SettingsError(
            f"An image or mask has values from {lowest:g} to {highest:g}, so which are black and white is "
            "unknown: scale them to whole numbers from 0 to 255."
        )
    if image.mode == "F":
        levels = (values * 255).round() if highest <= 1 else values
    else:
        levels = values // 256 if image.mode != "I" or highest > 255 else values
    eight = Image.fromarray(levels.astype(np.uint8))
    if isinstance(clear, int):
        eight.putalpha(Image.fromarray((values != clear) * np.uint8(255)))
    eight.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return eight


def _check(image: Image.Image) -> None:
    if not isinstance(image, Image.Image):
        raise SettingsError(f"The image came as {type(image).__name__}: open it with PIL.Image.open.")
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise SettingsError(
            f"The image has {image.width}x{image.height} px, more than the limit of {MAX_PIXELS // 10**6} "
            "million: scale it down."
        )
