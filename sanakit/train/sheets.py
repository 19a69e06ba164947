"""Contact sheets: many pictures on one, to be looked at."""

from __future__ import annotations

from PIL import Image
from torch import Tensor


def contact_sheet(images: Tensor, columns: int, side: int = 144) -> Image.Image:
    """Lay out images (B 3 H W in [-1, 1]) row by row, each `side` pixels wide."""
    pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = -(-len(pixels) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for index, picture in enumerate(pixels):
        place = (index % columns * side, index // columns * side)
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), place)
    return sheet
