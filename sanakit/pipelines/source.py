"""The image that drawing starts from: any PIL image, brought to what a model can take in, and back.

An image is turned by its EXIF orientation, laid on white where transparent, and scaled to the nearest shape
that the model draws well. The result is scaled back to the image's own size, and pixels outside the mask are
copied from the image.
Shapes: H W pixels of the image, h w latents of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageOps

from sanakit.errors import SettingsError, SizeError, of_setting
from sanakit.images.image import MAX_SIDE, MIN_SIDE, to_tensor
from sanakit.images.masks import faded, mask_tensor, repaint_mask
from sanakit.images.opening import flatten
from sanakit.pipelines.control import InitialImage
from sanakit.pipelines.request import ModelSpec, plain, whole_number

FEATHER, MAX_FEATHER = 8, 64  # pixels over which what was drawn fades in, inside the mask


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
) -> InitialImage:
    """Return the start of a drawing.

    strength: in [0, 1]; 1 redraws, 0 only passes the image through the autoencoder. mask: of the
    image's size; white, or transparent where it has an alpha channel, is redrawn. width, height: pixels
    of the result: the image is scaled and cut to them; None: its own size, drawn near the model's own.
    feather: pixels, >= 0. binned: as for `TextToImage.__call__`. Raises SettingsError or SizeError.
    """
    strength, width, height = checked_strength(strength), plain(width), plain(height)
    feather = whole_number("feather", feather, 0, MAX_FEATHER)
    image = flatten(image)
    marked = None if mask is None else repaint_mask(mask, image.size)
    if width is None and height is None:
        drawn = _near_native(spec, image.width, image.height, binned)
    else:
        native = spec.settings.width, spec.settings.height
        size = (native[0] if width is None else width, native[1] if height is None else height)
        drawn = spec.drawn_size(*size, binned=binned)
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        if marked is not None:
            marked = ImageOps.fit(marked, size, Image.Resampling.NEAREST)
    small = image.resize((drawn[1], drawn[0]), Image.Resampling.LANCZOS)
    pixels = to_tensor(np.array(small)[None])  # 1 3 H W
    grid = (drawn[0] // spec.compression, drawn[1] // spec.compression)
    return InitialImage(
        pixels=pixels,
        strength=strength,
        mask=None if marked is None else F.adaptive_max_pool2d(mask_tensor(marked), grid),
        size=(image.height, image.width),
        finish=_finisher(image, marked, feather),
    )


@of_setting("strength")
def checked_strength(strength: float) -> float:
    """Return the strength to redraw with, in [0, 1]. Raises SettingsError for anything else."""
    strength = plain(strength)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise SettingsError(f"strength = {strength!r}, but it must be a number from 0 (keep) to 1 (redraw).")
    return float(strength)


def _near_native(spec: ModelSpec, width: int, height: int, binned: bool) -> tuple[int, int]:
    """Height and width to draw an image in: its shape, but about as many pixels as the model learned."""
    unit = spec.compression
    scale = spec.sample_size * unit / math.sqrt(width * height)
    sides = [min(max(round(side * scale / unit) * unit, MIN_SIDE), MAX_SIDE) for side in (width, height)]
    if max(width, height) > 16 * min(width, height):
        raise SizeError(
            f"An image of {width}x{height} px is too narrow to be drawn: crop it to at most 16:1.",
            setting="image",
        )
    return spec.drawn_size(*sides, binned=binned)


def _finisher(
    image: Image.Image, marked: Image.Image | None, feather: int
) -> Callable[[Image.Image], Image.Image]:
    """Return the function from drawn image to result: it resizes, and pastes the kept pixels."""
    fade = None if marked is None else faded(marked, feather)

    def finish(drawn: Image.Image) -> Image.Image:
        if drawn.size != image.size:
            drawn = drawn.resize(image.size, Image.Resampling.LANCZOS)
        return drawn if fade is None else Image.composite(drawn, image, fade)

    return finish
