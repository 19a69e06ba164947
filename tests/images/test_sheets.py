"""Contact sheets keep the shape of their images."""

from __future__ import annotations

import torch
from PIL import Image

from sanakit.images.sheets import contact_sheet, stack_sheets


def test_pictures_keep_their_ratio_and_places() -> None:
    images = torch.stack([torch.full((3, 16, 32), value) for value in (-1.0, 0.0, 1.0)])
    sheet = contact_sheet(images, 2, side=20)
    assert sheet.size == (40, 20)  # two columns of 20x10, two rows
    assert [sheet.getpixel(place) for place in ((5, 5), (35, 5), (5, 15))] == [
        (0, 0, 0),
        (128, 128, 128),
        (255, 255, 255),
    ]


def test_sheets_are_stacked_on_white() -> None:
    wide, narrow = Image.new("RGB", (30, 10)), Image.new("RGB", (20, 5))
    whole = stack_sheets([wide, narrow])
    assert whole.size == (30, 15)
    assert [whole.getpixel(place) for place in ((29, 9), (19, 14), (25, 12))] == [
        (0, 0, 0),
        (0, 0, 0),
        (255, 255, 255),
    ]
