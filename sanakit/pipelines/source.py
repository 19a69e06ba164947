"""The picture that drawing starts from: any PIL image, brought to what a model can take in, and back.

A picture is turned as its EXIF orientation says, laid on white where it is transparent, and scaled to the
nearest shape that the model draws well; what was drawn is scaled back to the picture's own size, and pixels
outside the mask are then those of the picture itself.
Shapes: H W pixels of the picture, h w latents of what is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.images.image import MAX_SIDE, MIN_SIDE
from sanakit.pipelines.request import ModelSpec, Source, whole_number

COMMON_FORMATS = ("PNG", "JPEG", "WEBP")  # as Pillow calls them
MAX_PIXELS = 2**26  # of a source: 67 million, 8192 x 8192
FEATHER, MAX_FEATHER = 8, 64  # pixels over which what was drawn fades in, inside the mask
REPAINT = 128  # grey levels from here on mark what is drawn anew
# What makes a picture upright, by its EXIF orientation.
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


def open_picture(
    file: str | os.PathLike[str] | BinaryIO, what: str, formats: tuple[str, ...] = COMMON_FORMATS
) -> Image.Image:
    """Read a picture whole; its header first, so that a small file can not ask for gigabytes.

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
        wrong = f"can not be read ({reason})" if reason else "is damaged, or no picture"
        raise SettingsError(f"{what} {wrong}: give a whole PNG, JPEG or WebP file.") from None
    raise SizeError(f"{what} has too many pixels: give one of at most {MAX_PIXELS // 10**6} million.")


def make_source(
    spec: ModelSpec,
    image: Image.Image,
    strength: float,
    *,
    mask: Image.Image | None = None,
    width: int | None = None,
    height: int | None = None,
    feather: int = FEATHER,
    binned: bool = True,
) -> Source:
    """Give the start of a drawing.

    strength: in [0, 1]; 1 draws anew, 0 only passes the picture through the autoencoder. mask: of the
    picture's size; white, or transparent where it has an alpha channel, is drawn anew. width, height: pixels
    of the result: the picture is scaled and cut to them; None: its own size, drawn near the model's own.
    feather: pixels, >= 0. binned: as for `TextToImage.__call__`. Raises SettingsError or SizeError.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise SettingsError(
            f"strength = {strength!r}, but it must be a number from 0 (keep) to 1 (draw anew)."
        )
    whole_number("feather", feather, 0, MAX_FEATHER)
    picture = flatten(image)
    marked = None if mask is None else repaint_mask(mask, picture.size)
    if width is None and height is None:
        drawn = _near_native(spec, picture.width, picture.height, binned)
    else:
        native = spec.settings.width, spec.settings.height
        size = (native[0] if width is None else width, native[1] if height is None else height)
        drawn = spec.drawn_size(*size, binned=binned)
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        if marked is not None:
            marked = ImageOps.fit(marked, size, Image.Resampling.NEAREST)
    small = picture.resize((drawn[1], drawn[0]), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1  # 1 3 H W
    grid = (drawn[0] // spec.compression, drawn[1] // spec.compression)
    return Source(
        pixels=pixels,
        strength=float(strength),
        mask=None if marked is None else F.adaptive_max_pool2d(_levels(marked), grid),
        size=(picture.height, picture.width),
        finish=_finisher(picture, marked, feather),
    )


def flatten(image: Image.Image) -> Image.Image:
    """Give a picture as RGB: upright, on white where it is transparent, 16 bits brought to 8.

    Raises SettingsError for what is no picture or too large, or whose file is damaged.
    """
    with _decoding("picture"):
        upright = _upright(image)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        layered = upright.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")


def repaint_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Give a mask as black and white (mode L, 0 or 255), white where the picture is drawn anew.

    mask: white marks it, or, where the mask has transparent pixels, transparency does. size: width and height
    of the upright picture. Raises SettingsError if the sizes differ or nothing is marked.
    """
    with _decoding("mask"):
        upright = _upright(mask)
        levels = _transparency(upright)
        if levels is None or levels.getextrema()[1] == 0:  # an alpha channel that is opaque says nothing
            levels = upright.convert("L")
    if levels.size != size:
        raise SettingsError(
            f"The mask is {levels.width}x{levels.height}, the picture {size[0]}x{size[1]}: make them equal."
        )
    marked = levels.point([0] * REPAINT + [255] * (256 - REPAINT))
    if marked.getbbox() is None:
        raise SettingsError("The mask marks nothing: paint white what is to be drawn anew.")
    return marked


def transparency_mask(image: Image.Image) -> Image.Image | None:
    """Give the mask that a picture's own transparent pixels make, or None if it has none.

    Raises as `flatten` does.
    """
    with _decoding("picture"):
        clear = _transparency(_upright(image))
    return clear if clear is not None and np.asarray(clear).max() >= REPAINT else None


def _upright(image: Image.Image) -> Image.Image:
    """The decoded picture, turned as its EXIF orientation says, 16 bits brought to 8."""
    _check(image)
    image.load()  # first: the reader of TIFF files turns them itself
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise what their reader stumbles over; the pixels are sound
        turn = None
    upright = image if turn is None else image.transpose(turn)
    if turn is not None:  # what is upright must not be turned again
        upright.info = {key: value for key, value in upright.info.items() if key not in _TELL_ORIENTATION}
    if upright.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255 instead of scaling
        return Image.fromarray((np.asarray(upright).clip(0, 65535) // 256).astype(np.uint8))
    return upright


def _transparency(upright: Image.Image) -> Image.Image | None:
    """How transparent each pixel is (mode L, 255: wholly), or None where the picture can not tell."""
    if not upright.has_transparency_data:
        return None
    return ImageOps.invert(upright.convert("RGBA").getchannel("A"))


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turn what Pillow stumbles over in a damaged file, which may be at any time, into SettingsError."""
    try:
        yield
    except (SettingsError, MemoryError):
        raise
    except Exception as error:  # its readers raise anything from SyntaxError to struct.error
        raise SettingsError(f"The {what} can not be decoded ({error}): save it again as PNG.") from None


def _check(image: Image.Image) -> None:
    if not isinstance(image, Image.Image):
        raise SettingsError(f"The picture came as {type(image).__name__}: open it with PIL.Image.open.")
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise SettingsError(
            f"The picture has {image.width}x{image.height} px, but {MAX_PIXELS // 10**6} million are the "
            "most: scale it down."
        )


def _near_native(spec: ModelSpec, width: int, height: int, binned: bool) -> tuple[int, int]:
    """Height and width to draw a picture in: its shape, but about as many pixels as the model learned."""
    unit = spec.compression
    scale = spec.sample_size * unit / math.sqrt(width * height)
    sides = [min(max(round(side * scale / unit) * unit, MIN_SIDE), MAX_SIDE) for side in (width, height)]
    if max(width, height) > 16 * min(width, height):
        raise SizeError(
            f"A picture of {width}x{height} px is too narrow to be drawn: cut it to at most 16:1."
        )
    return spec.drawn_size(*sides, binned=binned)


def _finisher(
    picture: Image.Image, marked: Image.Image | None, feather: int
) -> Callable[[Image.Image], Image.Image]:
    """The function from what was drawn to the result: of the picture's size, and the picture where kept."""
    fade = None if marked is None else _faded(marked, feather)

    def finish(drawn: Image.Image) -> Image.Image:
        if drawn.size != picture.size:
            drawn = drawn.resize(picture.size, Image.Resampling.LANCZOS)
        return drawn if fade is None else Image.composite(drawn, picture, fade)

    return finish


def _faded(marked: Image.Image, feather: int) -> Image.Image:
    """Soften a mask's edge to the inside: 0 outside, full more than `feather` pixels inside.

    A part that is too thin for that is full where it is thickest, so that it does not vanish.
    """
    if not feather:
        return marked
    inside = np.array(marked) > 0
    depth, core = inside.astype(np.uint8), inside  # steps to the outside, diagonal ones too: <= feather + 1
    for _ in range(feather):
        core = ~_grown(~core)
        depth += core
    full = depth
    for _ in range(feather):
        full = _grown(full) * inside  # the greatest depth nearby, along the part itself
    return Image.fromarray((depth * np.float32(255) / np.maximum(full, 1)).round().astype(np.uint8))


def _grown(values: np.ndarray) -> np.ndarray:
    """Each value the largest of itself and its eight neighbours (H W)."""
    tall = values.copy()
    np.maximum(tall[1:], values[:-1], out=tall[1:])
    np.maximum(tall[:-1], values[1:], out=tall[:-1])
    grown = tall.copy()
    np.maximum(grown[:, 1:], tall[:, :-1], out=grown[:, 1:])
    np.maximum(grown[:, :-1], tall[:, 1:], out=grown[:, :-1])
    return grown


def _levels(marked: Image.Image) -> Tensor:
    """A black and white mask as 1 1 H W of 0 and 1."""
    return (torch.from_numpy(np.array(marked)) > 0).float()[None, None]
