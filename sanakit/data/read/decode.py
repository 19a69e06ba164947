"""From an image's or a clip's file to the pixels of a training sample: header, decoding, scaling, cutting.

Files may be anything: damaged, hostile, huge. Any defect becomes a DataError, whose message continues after
the file's name. JPEG files are scaled down while decoding (the DCT's halves, quarters, eighths). This is 1.6
to 2 times as fast as full decoding and differs from it by 44 to 48 dB. JPEG itself loses more (40 to 45 dB;
quality 90, 1024 to 2048 px to 512). The rest of the way is torch's antialiased bicubic, equal to Pillow's
within one level and 3 times as quick.
Frames of clips are scaled and cut as images are.
Shapes: H W of the image, h w of the sample, T frames of it.
"""

from __future__ import annotations

import io
import math
from fractions import Fraction
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor

from sanakit.clips.reading import ClipFile
from sanakit.errors import DataError
from sanakit.images.formats import DATA_FORMATS
from sanakit.images.opening import ANIMATED, MAX_PIXELS, flatten

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def image_size(file: BinaryIO) -> tuple[int, int]:
    """Return height and width of the upright image in pixels, from the file's header. Raises DataError."""
    image = _open(file)
    return (image.width, image.height) if _is_sideways(image) else (image.height, image.width)


def decode(content: bytes, height: int, width: int) -> Tensor:
    """Return an image, upright and on white, scaled to cover height x width and cut from its middle.

    content: of the file. Returns uint8, 3 h w. Raises DataError for a file that cannot be decoded.
    """
    image = _open(io.BytesIO(content))
    sides = (width, height) if _is_sideways(image) else (height, width)
    scale = max(sides[0] / image.height, sides[1] / image.width)
    came = image.size
    if image.format == "JPEG" and scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    try:
        image.load()
        if image.size != came:
            # of the last pixels, that only partly lie in the image, the rest is made up
            times = round(came[0] / image.width)
            image = image.crop((0, 0, came[0] // times, came[1] // times))
        upright = flatten(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything from SyntaxError to struct.error
        raise DataError(f"is damaged ({error})") from None
    # as an array of its own: torch does not take one that it may not write to
    pixels = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    return scale_and_cut(pixels, height, width)


def decode_clip(clip: ClipFile, size: tuple[int, ...], rate: Fraction, u: float) -> Tensor:
    """Return a window of a clip, its frames scaled to cover a size and cut from their middle.

    size: frames, height and width. rate: frames a second of the window; for each the frame nearest in time.
    u: in [0, 1), where the window lies: 0 is the clip's beginning; what is not needed is not decoded. A clip
    that is shorter is shown again from its beginning. Returns uint8, 3 T h w. Raises SettingsError, OSError.
    """
    frames, height, width = size
    there = clip.count(rate)
    taken = min(frames, there)
    start = int(u * (there - taken + 1))
    shown = [
        # as an array of its own: torch does not take one that it may not write to
        scale_and_cut(torch.from_numpy(np.array(frame)).permute(2, 0, 1), height, width)
        for frame in clip.frames(start, taken, rate)
    ]
    return torch.stack([shown[number % taken] for number in range(frames)], dim=1)


def scale_and_cut(pixels: Tensor, height: int, width: int) -> Tensor:
    """Cut the middle of an image (uint8, 3 H W) to the ratio of height and width, and scale it to them."""
    top, left, cut_height, cut_width = cut_of(pixels.shape[1], pixels.shape[2], height, width)
    pixels = pixels[:, top : top + cut_height, left : left + cut_width]
    if (cut_height, cut_width) == (height, width):
        return pixels
    # uint8 stays uint8: torch scales it in 16-bit integers, the quickest way it has
    return F.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]


def cut_of(came_height: int, came_width: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest cut from the middle that has the sample's ratio."""
    scale = min(came_height / height, came_width / width)
    cut_height = min(came_height, max(1, round(height * scale)))
    cut_width = min(came_width, max(1, round(width * scale)))
    return (came_height - cut_height) // 2, (came_width - cut_width) // 2, cut_height, cut_width


def _open(file: BinaryIO) -> Image.Image:
    """Read a file's header."""
    try:
        image = Image.open(file, formats=DATA_FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"has more pixels than {MAX_PIXELS // 10**6} million") from None
    except Exception as error:  # not only UnidentifiedImageError: damaged headers raise anything
        if not file.seek(0, io.SEEK_END):
            raise DataError("is empty") from None
        what = ", ".join(DATA_FORMATS[:-1]) + f" or {DATA_FORMATS[-1]}"
        reason = (
            f"is not a {what} image"
            if isinstance(error, Image.UnidentifiedImageError)
            else f"is damaged ({error})"
        )
        raise DataError(reason) from None
    if image.format in ANIMATED and getattr(image, "is_animated", False):
        raise DataError("is an animation, not an image: save the frame that is meant as PNG")
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise DataError(f"has {image.width}x{image.height} px, more than {MAX_PIXELS // 10**6} million")
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # 0 to 1, 0 to 255, or else?
        raise DataError(
            "has 32 bits a pixel, and nothing says which value is white: save it with 8 or 16 bits"
        )
    return image


def _is_sideways(image: Image.Image) -> bool:
    # Only what the header brought: to look for more, Pillow would decode a PNG file whole. Files of TIFF
    # have been turned already.
    if image.format == "TIFF" or not image.info.keys() & {"exif", "xmp"}:
        return False
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except Exception:  # damaged EXIF data; the pixels are sound
        return False
