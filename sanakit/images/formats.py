"""The formats of image files: those that data sets have, and how large an image each can hold."""

from __future__ import annotations

from sanakit.errors import SizeError

DATA_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # as Pillow calls them
DATA_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST_SIDE = {"JPEG": 65500, "WEBP": 16383}  # pixels; of PNG more than an image may have here


def check_sides(file_format: str, *sides: int) -> None:
    """Raise SizeError where a side, in pixels, is more than a format can hold. file_format: as Pillow's."""
    side = max(sides)
    if side > MOST_SIDE.get(file_format, side):
        raise SizeError(
            f"The result is {side} px on one side, and {file_format} holds {MOST_SIDE[file_format]} at most: "
            "choose PNG, or a smaller size."
        )
