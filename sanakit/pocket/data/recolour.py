"""Things in another colour: a dog that is truly blue, its eyes, outlines and shading kept.

The body of a thing, the colours that cover most of it, is moved to the requested colour in OKLab (Ottosson
2020); small parts in other colours stay unchanged. `main_colour` tells the colour of an image by the same
names. Lightness and the two colour axes: L in [0, 1], a and b about -0.3 to 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter


@dataclass(frozen=True, kw_only=True, slots=True)
class Paint:
    """The target of a colour name.

    rgb: the colour of the body's middle.   contrast: how much of the body's shading is kept.
    seen: RGB values that go by this name, for `main_colour`.
    """

    rgb: tuple[int, int, int]
    contrast: float
    seen: tuple[tuple[int, int, int], ...]


PAINTS: dict[str, Paint] = {
    "red": Paint(
        rgb=(222, 40, 42),
        contrast=0.65,
        seen=((229, 40, 42), (190, 20, 30), (140, 15, 20), (240, 80, 70), (90, 10, 12), (250, 60, 80)),
    ),
    "orange": Paint(
        rgb=(250, 140, 20),
        contrast=0.45,
        seen=((250, 140, 20), (240, 115, 10), (255, 170, 70), (255, 130, 60), (225, 120, 20)),
    ),
    "yellow": Paint(
        rgb=(252, 215, 45),
        contrast=0.45,
        seen=((252, 215, 45), (255, 235, 110), (235, 190, 30), (255, 245, 170), (215, 180, 30)),
    ),
    "green": Paint(
        rgb=(58, 160, 66),
        contrast=0.7,
        seen=(
            (58, 160, 66),
            (110, 200, 90),
            (20, 110, 40),
            (150, 220, 140),
            (10, 70, 25),
            (140, 190, 40),
            (150, 210, 60),
        ),
    ),
    "blue": Paint(
        rgb=(40, 105, 225),
        contrast=0.7,
        seen=((40, 105, 225), (90, 150, 245), (20, 60, 160), (150, 195, 255), (12, 32, 95), (60, 170, 240)),
    ),
    "purple": Paint(
        rgb=(140, 65, 190),
        contrast=0.7,
        seen=((140, 65, 190), (175, 110, 225), (95, 35, 140), (205, 165, 240), (55, 15, 85)),
    ),
    "pink": Paint(
        rgb=(246, 130, 180),
        contrast=0.5,
        seen=((246, 130, 180), (255, 175, 205), (230, 85, 150), (255, 205, 225), (235, 60, 145)),
    ),
    "brown": Paint(
        rgb=(125, 78, 48),
        contrast=0.65,
        seen=((125, 78, 48), (165, 110, 75), (85, 52, 34), (60, 36, 24), (150, 95, 45), (185, 140, 105)),
    ),
    "black": Paint(
        rgb=(42, 42, 45),
        contrast=0.4,
        seen=((42, 42, 45), (15, 15, 15), (62, 62, 65), (0, 0, 0), (62, 54, 70)),
    ),
    "white": Paint(
        rgb=(244, 244, 247), contrast=0.5, seen=((247, 247, 249), (255, 255, 255), (232, 233, 238))
    ),
    "grey": Paint(
        rgb=(148, 150, 154),
        contrast=0.6,
        seen=((148, 150, 154), (115, 117, 120), (185, 187, 190), (90, 92, 95)),
    ),
}
COLOUR_NAMES = tuple(PAINTS)

BODY = 0.62  # share of a thing that its body has at least
CLUSTERS = 8
DARK = 0.30  # L below which a small part is an outline or an eye
RIM = 3.0  # px at 256 px: how wide the grey edge of a white thing is


def recolour(
    image: np.ndarray, alpha: np.ndarray, colour: str, random: Generator | None = None
) -> np.ndarray:
    """Recolour a thing.

    image: H W 3 uint8, the thing on white.   alpha: H W uint8, how opaque.   colour: of COLOUR_NAMES.
    random: for a shade a little off the middle one; None gives the middle.
    Returns H W 3 uint8, on white, of the same alpha.
    """
    paint = PAINTS[colour]
    opacity = alpha.astype(np.float32)[..., None] / 255
    shown = alpha > 8
    if not shown.any():
        return image.copy()
    solid = (image.astype(np.float32) - 255 * (1 - opacity)) / np.maximum(opacity, 1 / 255)
    lab = to_oklab(solid[shown].clip(0, 255))
    weight, middle = _body(lab, alpha[shown])
    target = to_oklab(np.array([paint.rgb], np.float32))[0]
    if random is not None:
        target = target + random.uniform(-1, 1, 3).astype(np.float32) * _play(colour)
    painted = _paint(lab, middle, target, paint, colour)
    kept = _details(lab, colour)
    lab = kept + weight[:, None] * (painted - kept)
    result = solid.clip(0, 255)
    result[shown] = from_oklab(lab)
    if colour == "white":
        result *= 1 - 0.2 * _rim(alpha)[..., None]
    return (255 * (1 - opacity) + opacity * result).clip(0, 255).round().astype(np.uint8)


def is_paintable(concept: str, group: str, subgroup: str) -> bool:
    """Tell whether people would ask for a thing in another colour: not for a person, scene or sign."""
    if group in ("people & body", "symbols") or subgroup in _SCENES or concept in _UNPAINTED:
        return False
    coloured = concept.partition(" ")[0].lower() in COLOUR_NAMES
    return not coloured or concept in ("red apple", "black cat", "polar bear", "white flower")


def main_colour(image: np.ndarray) -> str:
    """Name the main colour of an image on a white ground (H W 3 uint8): one of COLOUR_NAMES.

    Each pixel of what stands on the ground counts for the name whose shades are nearest to it.
    """
    side = 64
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32)
    thing = ~_ground(pixels)
    # what is only an edge of half-shown ground says little; a thin thing is nothing but edge
    inner = np.asarray(Image.fromarray(thing.astype(np.uint8)).filter(ImageFilter.MinFilter(3))) > 0
    thing = inner if inner.sum() > 0.3 * thing.sum() else thing
    if not thing.any():
        return "white"
    counts = np.bincount(_nearest_name(to_oklab(pixels[thing])), minlength=len(COLOUR_NAMES))
    return COLOUR_NAMES[int(counts.argmax())]


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert ... 3 RGB in [0, 255] to OKLab."""
    linear = _LINEAR[rgb.round().astype(np.uint8)]
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """Convert ... 3 OKLab to RGB in [0, 255]; what no screen shows is cut off."""
    linear = ((lab @ _FROM_LAB.T) ** 3 @ _FROM_LMS.T).clip(0, 1)
    return _BYTES[(linear * (len(_BYTES) - 1)).round().astype(np.int32)]


def _body(lab: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the thing's body: how much each pixel belongs to it, in [0, 1], and its middle colour."""
    # colour tells parts apart better than lightness, which shading changes
    features = lab * np.array([0.55, 1.3, 1.3], np.float32)
    step = max(1, len(lab) // 1500)
    sample = features[::step]
    opaque = alpha[::step].astype(np.float32)
    centres = _cluster(sample, opaque)
    nearest = _distances(sample, centres).argmin(1)
    shares = np.bincount(nearest, opaque, len(centres)) / max(float(opaque.sum()), 1.0)
    # from the largest part outwards: the parts most like those already taken, until enough is taken
    dark = centres[:, 0] / 0.55 < DARK
    first = int(np.where(dark & (shares < 0.5), shares * 0.3, shares).argmax())
    taken = [first]
    while True:
        rest = [k for k in range(len(centres)) if k not in taken and shares[k] > 0]
        if not rest:
            break
        gaps = {k: min(float(np.linalg.norm(centres[k] - centres[t])) for t in taken) for k in rest}
        best = min(rest, key=lambda k: gaps[k] / (0.05 + float(shares[k])) ** 0.5)
        if shares[taken].sum() >= BODY and gaps[best] > 0.09:
            break
        taken.append(best)
    left = [k for k in range(len(centres)) if k not in taken]
    inside = _distances(features, centres[taken]).min(1)
    middle = np.average(centres[taken], axis=0, weights=shares[taken])
    middle = middle / np.array([0.55, 1.3, 1.3], np.float32)
    if not left:
        return np.ones(len(lab), np.float32), middle
    outside = _distances(features, centres[left]).min(1)
    # softly at the border between parts, where pixels are mixed
    inside, outside = np.sqrt(inside), np.sqrt(outside)
    return ((outside - inside) / (inside + outside + 1e-4) * 3 + 0.5).clip(0, 1), middle


def _cluster(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Find CLUSTERS centres by k-means, started from points far apart."""
    centres = [np.average(points, axis=0, weights=weights)]
    gap = ((points - centres[0]) ** 2).sum(1)
    for _ in range(CLUSTERS - 1):
        centres.append(points[int((gap * weights).argmax())])
        gap = np.minimum(gap, ((points - centres[-1]) ** 2).sum(1))
    found = np.stack(centres)
    for _ in range(6):
        nearest = _distances(points, found).argmin(1)
        total = np.bincount(nearest, weights, CLUSTERS)
        sums = np.stack([np.bincount(nearest, weights * points[:, k], CLUSTERS) for k in range(3)], 1)
        found = np.where(total[:, None] > 0, sums / np.maximum(total, 1e-6)[:, None], found)
    return found.astype(np.float32)


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)).clip(0)


def _paint(lab: np.ndarray, middle: np.ndarray, target: np.ndarray, paint: Paint, colour: str) -> np.ndarray:
    """Move colours so that the body's middle comes to the target; shading stays, as lightness."""
    shade = (lab[:, 0] - middle[0]) * paint.contrast
    # shades much lighter or darker than the middle are pressed together: a name holds for few of them
    low, high = _ROOM.get(colour, (0.24, 0.20))
    shade = np.where(shade < 0, -low * np.tanh(-shade / low), high * np.tanh(shade / high))
    light = (target[0] + shade).clip(0, 1)
    # paler towards white and black, as shaded surfaces are
    towards = np.where(shade > 0, 1 - 0.55 * shade / high, 1 + 0.35 * shade / low)
    return np.stack([light, target[1] * towards, target[2] * towards], 1).astype(np.float32)


def _details(lab: np.ndarray, colour: str) -> np.ndarray:
    """Keep small parts apart from a body that becomes as dark or as light as they are."""
    kept = lab.copy()
    if colour == "black":
        dark = (1 - (lab[:, 0] - 0.25) / 0.2).clip(0, 1)
        kept[:, 0] += dark * (0.62 - lab[:, 0])
    return kept


def _play(colour: str) -> np.ndarray:
    """Return how far L, a and b of a colour may be off at random."""
    if colour in ("black", "white", "grey"):
        return np.array([0.03 if colour == "grey" else 0.01, 0.002, 0.002], np.float32)
    return np.array([0.02, 0.012, 0.012], np.float32)


def _rim(alpha: np.ndarray) -> np.ndarray:
    """Return how near the edge of a thing pixels are, in [0, 1]; without a rim nobody sees white on white."""
    blurred = Image.fromarray(np.pad(alpha, 4)).filter(ImageFilter.GaussianBlur(RIM * alpha.shape[0] / 256))
    return (1 - np.asarray(blurred, np.float32)[4:-4, 4:-4] / 255).clip(0, 0.5) * 2


def _ground(pixels: np.ndarray) -> np.ndarray:
    """Return where the white ground is: white and joined to the image's edge."""
    white = np.pad(pixels.min(2) > 250, 1, constant_values=True)
    ground = np.zeros_like(white)
    ground[0] = ground[-1] = ground[:, 0] = ground[:, -1] = True
    reached = 0
    while reached < (reached := int(ground.sum())):
        ground[1:] |= ground[:-1]
        ground[:-1] |= ground[1:]
        ground[:, 1:] |= ground[:, :-1]
        ground[:, :-1] |= ground[:, 1:]
        ground &= white
    return ground[1:-1, 1:-1]


def _nearest_name(lab: np.ndarray) -> np.ndarray:
    scale = np.array([0.6, 1.6, 1.6], np.float32)
    shades = to_oklab(np.array([rgb for paint in PAINTS.values() for rgb in paint.seen], np.float32)) * scale
    names = np.repeat(np.arange(len(PAINTS)), [len(paint.seen) for paint in PAINTS.values()])
    return names[_distances(lab * scale, shades).argmin(1)]


_SCENES = frozenset({"geographic locations", "globes & maps", "hearts", "flags", "monkey faces"})
_UNPAINTED = frozenset(
    {
        *("foggy", "night with stars", "cityscape", "sunrise over mountains", "sunrise", "cityscape at dusk"),
        *("sunset", "bridge at night", "milky way", "rainbow", "moon viewing ceremony", "framed picture"),
        *("fireworks", "heart suit", "spade suit", "club suit", "diamond suit", "joker", "confetti ball"),
        *("artist palette", "traffic light", "horizontal traffic light", "vertical traffic light", "dvd"),
        *("mahjong red dragon", "flower playing cards", "spider web", "milky way", "hot springs"),
        *("green apple", "green book", "blue book", "orange book", "light blue heart", "green salad"),
    }
)
# how far below and above its middle a colour's shades may lie, in L, where it is not the usual
_ROOM = {
    "yellow": (0.14, 0.08),
    "orange": (0.13, 0.10),
    "pink": (0.14, 0.10),
    "white": (0.10, 0.03),
    "black": (0.12, 0.12),
    "brown": (0.16, 0.14),
    "red": (0.20, 0.12),
    "grey": (0.20, 0.14),
}
_VALUES = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4).astype(np.float32)
_FINE = np.linspace(0, 1, 8192, dtype=np.float32)
_BYTES = (255 * np.where(_FINE <= 0.0031308, 12.92 * _FINE, 1.055 * _FINE ** (1 / 2.4) - 0.055)).astype(
    np.float32
)
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_FROM_LAB = np.linalg.inv(_TO_LAB)
_FROM_LMS = np.linalg.inv(_TO_LMS)
