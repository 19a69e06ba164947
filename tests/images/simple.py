"""Images that are easily made, and whether two are the same."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    levels = np.random.default_rng(width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(levels)


def boxed(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Image.Image:
    """A black mask with white boxes: left, top, right, bottom."""
    mask = Image.new("L", size)
    for box in boxes:
        mask.paste(255, box)
    return mask


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()
