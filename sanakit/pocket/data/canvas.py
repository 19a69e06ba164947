"""One thing on a canvas of any size: flipped, turned, scaled and placed on a ground of a named colour.

Images of things are squares, RGB on white with their opacity; a canvas is H W 3 uint8. The ground shows
through transparent parts, exactly as in composed scenes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageOps

from sanakit.pocket.data.palette import COLOURS

SIZES: tuple[tuple[int, int], ...] = ((256, 256), (224, 288), (288, 224), (192, 352), (352, 192))
"""Width and height in px of the canvases of 256 px's area: 1:1, 3:4, 4:3, 9:16, 16:9 in steps of 32."""
DOUBLE_SIZES = tuple((2 * width, 2 * height) for width, height in SIZES)
"""The same at 512 px's area."""

TURN = 12.0  # degrees, at most
SCALES = (0.6, 1.0)
UNTOUCHED = 0.25  # share of draws that show the thing as it was drawn, in the middle on white
ON_WHITE = 0.75  # share of the others that have a white ground


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """How a thing stands on its canvas.

    ground: of COLOURS.   flip: mirrored, left to right.   turn: degrees, counter-clockwise.
    scale: side of the thing's square over the canvas's shorter side; smaller where it would not fit.
    x, y: in [0, 1], 0 = as far to the left (top) as the thing fits, 0.5 = in the middle.
    """

    ground: str = "white"
    flip: bool = False
    turn: float = 0.0
    scale: float = 1.0
    x: float = 0.5
    y: float = 0.5


AS_DRAWN = Placement()


def draw_placement(
    random: Generator,
    *,
    untouched: float = UNTOUCHED,
    turn: float = TURN,
    scales: tuple[float, float] = SCALES,
) -> Placement:
    """Draw how a thing stands at random: mostly upright, in the middle and on white.

    untouched: share that stands as it was drawn. turn: degrees, at most. scales: least and largest.
    """
    if random.random() < untouched:
        return AS_DRAWN
    others = [name for name in COLOURS if name != "white"]
    ground = "white" if random.random() < ON_WHITE else others[int(random.integers(len(others)))]
    middle = random.random() < 0.6
    x, y = (0.5, 0.5) if middle else random.random(2)
    return Placement(
        ground=ground,
        flip=bool(random.random() < 0.5),
        turn=float(random.uniform(-turn, turn)) if random.random() < 0.5 else 0.0,
        scale=float(random.uniform(*scales)),
        x=float(x),
        y=float(y),
    )


def compose(
    image: np.ndarray, alpha: np.ndarray, width: int, height: int, placement: Placement = AS_DRAWN
) -> np.ndarray:
    """Put one thing onto a canvas, whole.

    image: S S 3 uint8, the thing on white.   alpha: S S uint8.   width, height: of the canvas, px.
    Returns height width 3 uint8.
    """
    side = alpha.shape[0]
    if placement == AS_DRAWN and (width, height) == (side, side):
        return image.copy()
    left, top, right, bottom = _box(alpha)
    if placement.flip:
        left, right = side - right, side - left
    # the thing's box after the turn: half its width and height, and where its middle goes, all in source px
    cos, sin = math.cos(math.radians(placement.turn)), math.sin(math.radians(placement.turn))
    half_w, half_h = (right - left) / 2, (bottom - top) / 2
    reach_x = abs(cos) * half_w + abs(sin) * half_h
    reach_y = abs(sin) * half_w + abs(cos) * half_h
    zoom = placement.scale * min(width, height) / side
    if placement.turn:
        zoom = min(zoom, width / (2 * reach_x), height / (2 * reach_y))
    middle_x, middle_y = (left + right) / 2 - side / 2, (top + bottom) / 2 - side / 2
    off_x = zoom * (cos * middle_x + sin * middle_y)
    off_y = zoom * (-sin * middle_x + cos * middle_y)
    centre_x = _stand(placement.x, width, zoom * reach_x, off_x)
    centre_y = _stand(placement.y, height, zoom * reach_y, off_y)

    picture = _premultiplied(image, alpha, placement.flip)
    if placement.turn:
        picture, zoom = _shrunk(picture, zoom)
        middle = picture.width / 2
        a, b, d, e = cos / zoom, -sin / zoom, sin / zoom, cos / zoom
        c, f = middle - a * centre_x - b * centre_y, middle - d * centre_x - e * centre_y
        picture = picture.transform(
            (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
        )
    else:
        length = max(1, round(zoom * side))
        if length != side:
            picture = picture.resize((length, length), Image.Resampling.HAMMING)
        sheet = Image.new("CMYK", (width, height))
        sheet.paste(picture, (round(centre_x - length / 2), round(centre_y - length / 2)))
        picture = sheet
    *colours, opacity = picture.split()
    through = ImageChops.invert(opacity)
    shown = [
        ImageChops.add(
            band, through if value == 255 else ImageChops.multiply(through, _plane(value, band.size))
        )
        for band, value in zip(colours, COLOURS[placement.ground], strict=True)
    ]
    return np.asarray(Image.merge("RGB", shown))


def _premultiplied(image: np.ndarray, alpha: np.ndarray, flip: bool) -> Image.Image:
    """Colours on white less the white that shines through, and opacity, as one image of four planes.

    They are resampled alike then. Pillow knows four planes that it does not mix by the name of CMYK.
    """
    opacity = Image.fromarray(np.ascontiguousarray(alpha))
    through = ImageChops.invert(opacity)
    bands = Image.fromarray(np.ascontiguousarray(image)).split()
    picture = Image.merge("CMYK", [*(ImageChops.subtract(band, through) for band in bands), opacity])
    return ImageOps.mirror(picture) if flip else picture


@lru_cache(maxsize=256)
def _plane(value: int, size: tuple[int, int]) -> Image.Image:
    return Image.new("L", size, value)


def _shrunk(picture: Image.Image, zoom: float) -> tuple[Image.Image, float]:
    """Make an image smaller before it is turned, where turning alone would skip pixels."""
    if zoom > 0.75:
        return picture, zoom
    length = max(1, round(picture.width * zoom))
    return picture.resize((length, length), Image.Resampling.HAMMING), zoom * picture.width / length


def _stand(place: float, room: int, reach: float, off: float) -> float:
    """Return the square's centre in px that puts the thing, `off` from it, at `place` in the free space.

    In the middle of the room it stands as it was drawn: what is off the middle there stays off it.
    """
    low, high = reach - off, room - reach - off
    if low > high:
        return (low + high) / 2
    drawn = min(max(room / 2, low), high)
    return drawn + (high - drawn) * (2 * place - 1) if place > 0.5 else low + (drawn - low) * 2 * place


def _box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is shown; the whole square where nothing is."""
    columns, rows = np.flatnonzero(alpha.max(0) > 8), np.flatnonzero(alpha.max(1) > 8)
    if not len(columns):
        return 0, 0, alpha.shape[1], alpha.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
