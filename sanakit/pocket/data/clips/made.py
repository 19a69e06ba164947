"""Made motion: a still drawing that bounces, turns, fades or slides, as a loop with the words for it.

There are animated emoji of few kinds of things (no fruit, no plants, no tools): what stands still in every
design gets a motion that words can tell.
Shapes: S side in pixels, T frames.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from PIL import Image

from sanakit.errors import SettingsError

Motion = Literal["bounce", "turn", "fade", "slide"]
WORDS: dict[Motion, tuple[str, ...]] = {  # to be put behind a thing's name
    "bounce": ("bouncing", "bouncing up and down"),
    "turn": ("turning", "spinning round"),
    "fade": ("fading in and out", "appearing and disappearing"),
    "slide": ("sliding from side to side", "moving left and right"),
}
HEIGHT = 0.16  # of the side, that a thing bounces or slides
ROOM = 0.72  # of the side, what is left of a thing that moves: a turned square must fit


def make_motion(image: np.ndarray, alpha: np.ndarray, motion: Motion, frames: int, side: int) -> np.ndarray:
    """Return a loop of a drawing on white, T S S 3 uint8; the frame behind the last one would be the first.

    image: H H 3 uint8 as it looks on white, alpha: H H uint8, how opaque it is, as the data set of images
    has them. Raises SettingsError for another motion, or fewer than 2 frames.
    """
    if motion not in get_args(Motion) or frames < 2:
        raise SettingsError(
            f"A made motion is one of {', '.join(get_args(Motion))}, of 2 frames or more; {motion!r} of "
            f"{frames} was requested."
        )
    small = max(1, round(side * ROOM))
    cut = Image.fromarray(_cut_out(image, alpha)).resize((small, small), Image.Resampling.BOX)
    return np.stack([_frame(cut, motion, number / frames, side) for number in range(frames)])


def _cut_out(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return H H 4, premultiplied colours: what lies on white is the drawing plus the white that shows."""
    shows = 255 - alpha[..., None].astype(np.int16)
    colours = np.clip(image.astype(np.int16) - shows, 0, 255)
    return np.concatenate((colours.astype(np.uint8), alpha[..., None]), axis=2)


def _frame(cut: Image.Image, motion: Motion, time: float, side: int) -> np.ndarray:
    """Draw the frame at `time`, from 0 to 1 round the loop."""
    across = down = 0.0
    strength = 1.0
    if motion == "bounce":
        down = HEIGHT * side * (0.5 - abs(math.sin(math.pi * time)))
    elif motion == "slide":
        across = HEIGHT * side * math.sin(2 * math.pi * time)
    elif motion == "turn":
        cut = cut.rotate(-360 * time, Image.Resampling.BILINEAR)
    else:
        strength = 0.5 + 0.5 * math.cos(2 * math.pi * time)
    margin = (side - cut.width) / 2
    # the output's pixel (x, y) shows the input's pixel (x - margin - across, y - margin - down)
    shift = (1, 0, -margin - across, 0, 1, -margin - down)
    placed = cut.transform((side, side), Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR)
    values = strength * np.asarray(placed, dtype=np.float32)
    return np.rint(values[..., :3] + 255 - values[..., 3:]).clip(0, 255).astype(np.uint8)
