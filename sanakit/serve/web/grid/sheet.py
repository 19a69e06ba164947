"""The sheet of a grid: its images in one, with labels above the columns and left of the rows."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from sanakit.images.opening import open_image
from sanakit.serve.web.grid.axes import Axis

MOST_SIDE = 8192  # pixels of the sheet
GAP = 8  # pixels between images
_INK, _PAPER = "#1c1917", "#ffffff"


def make_sheet(files: Sequence[Callable[[], bytes | None]], across: Axis, down: Axis) -> Image.Image:
    """Return images, row by row, under and beside their labels; smaller where the sheet would be too large.

    files: read an image's file, None of a deleted one, whose place stays blank. One is in memory at a time.
    """
    columns, rows = len(across.values), len(down.values)
    width, height = next((image.size for image in map(_opened, files) if image is not None), (256, 256))
    points = max(12, min(width, height) // 16)
    font = ImageFont.load_default(points)
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    line = round(1.6 * points)
    left = max((_width(ruler, label, font) for label in down.labels), default=0)
    left = min(left, 2 * width) + (2 * GAP if left else 0)
    top = line if any(across.labels) else 0
    scale = min(
        1.0,
        (MOST_SIDE - left - columns * GAP) / (columns * width),
        (MOST_SIDE - top - rows * GAP) / (rows * height),
    )
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    size = left + columns * (width + GAP) - GAP, top + rows * (height + GAP) - GAP
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(across.labels):
        place = left + column * (width + GAP) + width // 2, top // 2
        draw.text(place, _shortened(draw, label, font, width), fill=_INK, font=font, anchor="mm")
    for row, label in enumerate(down.labels):
        place = GAP, top + row * (height + GAP) + height // 2
        draw.text(place, _shortened(draw, label, font, left - GAP), fill=_INK, font=font, anchor="lm")
    for number, image in enumerate(map(_opened, files)):
        row, column = divmod(number, columns)
        if image is not None:
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(small, (left + column * (width + GAP), top + row * (height + GAP)))
    return sheet


def _opened(read: Callable[[], bytes | None]) -> Image.Image | None:
    data = read()
    return None if data is None else open_image(io.BytesIO(data), "An image of the grid")


def _width(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(draw.textlength(text.replace("\n", " "), font=font))


def _shortened(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int
) -> str:
    """Return a text in one line of at most so many pixels, cut where it is longer."""
    text = text.replace("\n", " ")
    if _width(draw, text, font) <= most:
        return text
    while text and _width(draw, f"{text}…", font) > most:
        text = text[:-1]
    return f"{text}…"
