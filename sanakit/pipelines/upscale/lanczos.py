"""Enlarge an image by Lanczos resampling, and take detail from a drawing of it.

Detail is what a drawing loses when it is scaled down and up again. Added to the enlarged image it leaves all
else nearly as it was: the result, scaled down, is the image to a few levels (see its test).
Source: back-projection (Irani and Peleg 1991), the constraint of ILVR (arXiv:2108.02938).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.opening import MAX_PIXELS
from sanakit.pipelines.request import plain

MOST = 8.0  # times a side
LANCZOS = Image.Resampling.LANCZOS


def checked_factor(factor: float) -> float:
    """Return how many times longer each side shall be, above 1 and up to 8. Raises SettingsError."""
    factor = plain(factor)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= MOST:
        raise SettingsError(f"upscale = {factor!r}, but it must be a number above 1 and up to {MOST:g}.")
    return float(factor)


def enlarged_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return a size, width and height in pixels, enlarged. Raises SettingsError for too many pixels."""
    width, height = (round(side * factor) for side in size)
    if width * height > MAX_PIXELS:
        raise SettingsError(
            f"{width}x{height} px would be made, more than the limit of {MAX_PIXELS // 10**6} million: use a "
            "smaller factor."
        )
    return width, height


def with_detail(image: Image.Image, drawn: Image.Image) -> Image.Image:
    """Return an image in the size of a larger drawing of it, with that drawing's detail. Both are RGB."""
    small = drawn.resize(image.size, LANCZOS)
    detail = _levels(drawn) - _levels(small.resize(drawn.size, LANCZOS))
    levels = _levels(image.resize(drawn.size, LANCZOS)) + detail
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _levels(image: Image.Image) -> np.ndarray:
    """Return H W 3 levels, int16, whose differences do not overflow."""
    return np.asarray(image).astype(np.int16)
