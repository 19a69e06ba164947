"""Colours of plain grounds and silhouettes, by name, and which of them an image has.

Measured, not learned: what is plain gets the name of the colour that its median is nearest to in RGB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.images.image import HALF

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (229, 57, 53),
    "orange": (251, 140, 0),
    "yellow": (253, 216, 53),
    "green": (67, 160, 71),
    "light blue": (129, 212, 250),
    "blue": (30, 100, 220),
    "purple": (142, 68, 173),
    "pink": (244, 143, 177),
    "brown": (121, 85, 72),
    "gray": (158, 158, 158),
    "black": (20, 20, 20),
    "beige": (245, 232, 208),
}
"""Plain grounds and silhouettes: name to RGB."""

FRAME = 6  # px of the image's edge whose median is the ground
ALIKE = 60.0  # distance in RGB within which a pixel has a colour


def ground_of(image: Tensor) -> str:
    """Name the colour of an image's edge (3 H W in [-1, 1]): the nearest to its median."""
    edge = torch.cat([image[:, :FRAME].flatten(1), image[:, -FRAME:].flatten(1)], 1)
    edge = torch.cat([edge, image[:, :, :FRAME].flatten(1), image[:, :, -FRAME:].flatten(1)], 1)
    return _nearest(edge.median(1).values)


def silhouette_of(image: Tensor) -> str | None:
    """Name the one colour of what stands on an image's ground, 3 H W in [-1, 1]; None if it is not one.

    Plain is what has four fifths of its pixels near the colour of their median.
    """
    pixels = (image.flatten(1) + 1) * HALF
    ground = pixels.new_tensor(COLOURS[ground_of(image)])
    shown = pixels[:, (pixels - ground[:, None]).norm(dim=0) > ALIKE]
    if shown.shape[1] < 0.02 * pixels.shape[1]:
        return None
    median = shown.median(1).values
    plain = ((shown - median[:, None]).norm(dim=0) < ALIKE).float().mean() > 0.8
    return _nearest(median / HALF - 1) if plain else None


def _nearest(colour: Tensor) -> str:
    value = (colour.float().cpu() + 1) * HALF
    return min(COLOURS, key=lambda name: float((value - value.new_tensor(COLOURS[name])).norm()))
