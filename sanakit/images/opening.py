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

COMMON_FORMATS = ("PNG", "JPEG", "WEBP")  # as Pillow calls them
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
    Raises SettingsError for what is none of them or damaged, SizeError for more than MAX_PIXELS.
    """
    try:
        with Image.open(file, formats=formats) as image:  # reads the header
            if image.width * image.height <= MAX_PIXELS:
                image.load()
                return image
    except Image.DecompressionBombError:
        pass
    except Exception as error:  # whatever the decoders make of a damaged or hostile file
        reason = getattr(error, "strerror", None)  # of the system: it could not be opened
        wrong = f"cannot be read ({reason})" if reason else "is damaged, or not an image"
        raise SettingsError(f"{what} {wrong}: use an intact PNG, JPEG or WebP file.") from None
    raise SizeError(f"{what} has too many pixels: use one of at most {MAX_PIXELS // 10**6} million.")


def flatten(image: Image.Image) -> Image.Image:
    """Return an image as RGB: upright, in sRGB, on white where it is transparent, 16 bits brought to 8.

    Raises SettingsError for what is not an image or too large, or whose file is damaged.
    """
    with decoding("image"):
        turned = in_srgb(upright(image))
        if not turned.has_transparency_data:
            return turned.convert("RGB")
        layered = turned.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")


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
    if plain.mode == "P":
        plain = plain.convert("RGBA" if plain.has_transparency_data else "RGB")
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
    converted.info = {key: value for key, value in plain.info.items() if key != "transparency"}
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def upright(image: Image.Image) -> Image.Image:
    """Return the decoded image, turned as its EXIF orientation says, 16 bits brought to 8."""
    _check(image)
    image.load()  # first: the reader of TIFF files turns them itself
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise what their reader stumbles over; the pixels are sound
        turn = None
    turned = image if turn is None else image.transpose(turn)
    if turn is not None:  # what is upright must not be turned again
        turned.info = {key: value for key, value in turned.info.items() if key not in _TELL_ORIENTATION}
    if turned.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255 instead of scaling
        return Image.fromarray((np.asarray(turned).clip(0, 65535) // 256).astype(np.uint8))
    return turned


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn Pillow's errors for a damaged file, which may come at any time, into SettingsError."""
    try:
        yield
    except (SettingsError, MemoryError):
        raise
    except Exception as error:  # its readers raise anything from SyntaxError to struct.error
        raise SettingsError(f"The {what} cannot be decoded ({error}): save it again as PNG.") from None


def _check(image: Image.Image) -> None:
    if not isinstance(image, Image.Image):
        raise SettingsError(f"The image came as {type(image).__name__}: open it with PIL.Image.open.")
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise SettingsError(
            f"The image has {image.width}x{image.height} px, more than the limit of {MAX_PIXELS // 10**6} "
            "million: scale it down."
        )
