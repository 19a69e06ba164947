"""Masks: the pixels of an image to redraw, and how the new pixels fade in.

Shapes: H W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.images.opening import decoding, upright

REPAINT = 128  # grey levels from here on mark what is redrawn


def repaint_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a mask as black and white (mode L, 0 or 255), white where the image is redrawn.

    mask: white marks it, or, where the mask has transparent pixels, transparency does. size: width and height
    of the upright image. Raises SettingsError if the sizes differ or nothing is marked.
    """
    with decoding("mask"):
        turned = upright(mask)
        levels = _transparency(turned)
        if levels is None or levels.getextrema()[1] == 0:  # an alpha channel that is opaque says nothing
            levels = turned.convert("L")
    if levels.size != size:
        raise SettingsError(
            f"The mask is {levels.width}x{levels.height}, the image {size[0]}x{size[1]}: make them equal."
        )
    marked = levels.point([0] * REPAINT + [255] * (256 - REPAINT))
    if marked.getbbox() is None:
        raise SettingsError("The mask marks nothing: paint white where the image should be redrawn.")
    return marked


def transparency_mask(image: Image.Image) -> Image.Image | None:
    """Return the mask that an image's own transparent pixels make, or None if it has none.

    Raises as `flatten` does.
    """
    with decoding("image"):
        clear = _transparency(upright(image))
    return clear if clear is not None and np.asarray(clear).max() >= REPAINT else None


def faded(marked: Image.Image, feather: int) -> Image.Image:
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
    """Return for each pixel the maximum of itself and its eight neighbours (H W)."""
    tall = values.copy()
    np.maximum(tall[1:], values[:-1], out=tall[1:])
    np.maximum(tall[:-1], values[1:], out=tall[:-1])
    grown = tall.copy()
    np.maximum(grown[:, 1:], tall[:, :-1], out=grown[:, 1:])
    np.maximum(grown[:, :-1], tall[:, 1:], out=grown[:, :-1])
    return grown


def mask_tensor(marked: Image.Image) -> Tensor:
    """Return a black and white mask as 1 1 H W of 0 and 1."""
    return (torch.from_numpy(np.array(marked)) > 0).float()[None, None]


def _transparency(turned: Image.Image) -> Image.Image | None:
    """Return the transparency of each pixel (mode L, 255: fully), or None without an alpha channel."""
    if not turned.has_transparency_data:
        return None
    return ImageOps.invert(turned.convert("RGBA").getchannel("A"))
