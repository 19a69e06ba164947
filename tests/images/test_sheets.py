"""Contact sheets keep the shape of their images."""

from __future__ import annotations

import torch

from sanakit.images.sheets import contact_sheet


def test_pictures_keep_their_ratio_and_places() -> None:
    images = torch.stack([torch.full((3, 16, 32), value) for value in (-1.0, 0.0, 1.0)])
    sheet = contact_sheet(images, 2, side=20)
    assert sheet.size == (40, 20)  # two columns of 20x10, two rows
    assert [sheet.getpixel(place) for place in ((5, 5), (35, 5), (5, 15))] == [
        (0, 0, 0),
        (128, 128, 128),
        (255, 255, 255),
    ]
