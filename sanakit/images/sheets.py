"""Contact sheets: many images in one, for viewing."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from sanakit.images.image import to_levels


def contact_sheet(images: Tensor, columns: int, side: int = 144) -> Image.Image:
    """Lay out images (B 3 H W in [-1, 1]) row by row, the longer side of each `side` pixels."""
    pixels = to_levels(images).numpy()
    rows = -(-len(pixels) // columns)
    scale = side / max(pixels.shape[1:3])
    height, width = (max(1, round(length * scale)) for length in pixels.shape[1:3])
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pixels):
        place = (index % columns * width, index // columns * height)
        sheet.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS), place)
    return sheet


def stack_sheets(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return sheets below each other, on white."""
    whole = Image.new("RGB", (max(one.width for one in sheets), sum(one.height for one in sheets)), "white")
    top = 0
    for one in sheets:
        whole.paste(one, (0, top))
        top += one.height
    return whole
