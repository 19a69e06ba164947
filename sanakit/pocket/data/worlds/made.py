"""Made furniture: simple things of boxes, cones and balls, in random sizes and in named colours.

They stand beside the main thing of a scene, and are all there is where no package is at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sanakit.pocket.data.worlds.meshes import Colour, Mesh, ball, box, cone, joined

COLOURS: dict[str, Colour] = {
    "red": (0.78, 0.16, 0.14),
    "orange": (0.93, 0.52, 0.13),
    "yellow": (0.95, 0.81, 0.25),
    "green": (0.25, 0.55, 0.27),
    "blue": (0.18, 0.36, 0.72),
    "purple": (0.5, 0.26, 0.6),
    "pink": (0.92, 0.56, 0.67),
    "brown": (0.47, 0.3, 0.18),
    "white": (0.93, 0.93, 0.91),
    "grey": (0.55, 0.56, 0.58),
    "black": (0.14, 0.14, 0.16),
}
WOOD: Colour = (0.62, 0.43, 0.26)
LEAF: Colour = (0.2, 0.47, 0.2)


def _table(random: np.random.Generator, colour: Colour) -> Mesh:
    wide, high, deep = random.uniform((0.8, 0.6, 0.6), (1.5, 0.8, 0.9))
    legs = [
        box((0.07, high, 0.07), (x * (wide / 2 - 0.07), 0, z * (deep / 2 - 0.07)), WOOD)
        for x in (-1, 1)
        for z in (-1, 1)
    ]
    return joined([*legs, box((wide, 0.06, deep), (0, high, 0), colour)])


def _chair(random: np.random.Generator, colour: Colour) -> Mesh:
    seat, back = random.uniform((0.4, 0.4), (0.5, 0.6))
    legs = [box((0.05, seat, 0.05), (0.18 * x, 0, 0.18 * z), WOOD) for x in (-1, 1) for z in (-1, 1)]
    top = [box((0.44, 0.06, 0.44), (0, seat, 0), colour), box((0.44, back, 0.05), (0, seat, 0.2), colour)]
    return joined([*legs, *top])


def _sofa(random: np.random.Generator, colour: Colour) -> Mesh:
    wide = random.uniform(1.3, 2.0)
    arms = [box((0.2, 0.6, 0.8), (x * (wide / 2), 0, 0), colour) for x in (-1, 1)]
    light: Colour = (min(1.0, colour[0] + 0.1), min(1.0, colour[1] + 0.1), min(1.0, colour[2] + 0.1))
    rest = [box((wide, 0.4, 0.8), (0, 0, 0), light), box((wide, 0.85, 0.2), (0, 0, 0.4), colour)]
    return joined([*arms, *rest])


def _shelf(random: np.random.Generator, colour: Colour) -> Mesh:
    wide, high = random.uniform((0.6, 1.2), (1.1, 2.0))
    boards = [box((wide, 0.04, 0.3), (0, y, 0), WOOD) for y in np.linspace(0.05, high - 0.04, 4)]
    parts = [box((0.04, high, 0.3), (x * wide / 2, 0, 0), WOOD) for x in (-1, 1)]
    names = list(COLOURS)
    for board in np.linspace(0.09, high, 4)[:3]:
        for place in np.linspace(-wide / 2 + 0.1, wide / 2 - 0.1, 5):
            book = COLOURS[names[int(random.integers(len(names)))]]
            parts.append(box((0.08, random.uniform(0.15, 0.28), 0.2), (place, board, 0), book))
    return joined([*boards, *parts, box((wide, high, 0.03), (0, 0, 0.15), colour)])


def _lamp(random: np.random.Generator, colour: Colour) -> Mesh:
    high = random.uniform(1.0, 1.5)
    foot = [cone((0.16, 0.14), 0.04, (0, 0, 0), COLOURS["black"]), cone((0.02, 0.02), high, (0, 0, 0), WOOD)]
    return joined([*foot, cone((0.26, 0.15), 0.3, (0, high, 0), colour)])


def _plant(random: np.random.Generator, colour: Colour) -> Mesh:
    parts = [cone((0.14, 0.2), 0.3, (0, 0, 0), colour)]
    for _ in range(9):
        x, z = random.uniform(-0.25, 0.25, 2)
        parts.append(ball(random.uniform(0.1, 0.2), (x, random.uniform(0.25, 0.8), z), LEAF, rings=4))
    return joined(parts)


def _ball(random: np.random.Generator, colour: Colour) -> Mesh:
    return ball(random.uniform(0.2, 0.35), (0, 0, 0), colour)


def _boxes(random: np.random.Generator, colour: Colour) -> Mesh:
    first = random.uniform(0.4, 0.6)
    top = box((0.3, 0.3, 0.3), (0.05, first, -0.05), COLOURS["brown"])
    return joined([box((first, first, first), (0, 0, 0), colour), top])


# Name -> how it is made, in a colour.
MADE: dict[str, Callable[[np.random.Generator, Colour], Mesh]] = {
    "table": _table,
    "chair": _chair,
    "sofa": _sofa,
    "bookshelf": _shelf,
    "lamp": _lamp,
    "plant": _plant,
    "ball": _ball,
    "stack of boxes": _boxes,
}


def make_thing(random: np.random.Generator, name: str) -> tuple[str, Mesh]:
    """Return one of `MADE` in a random size and colour, standing on the floor, and its name with the colour.

    The colour of a plant is that of its pot.
    """
    colours = list(COLOURS)
    colour = colours[int(random.integers(len(colours)))]
    made = MADE[name](random, COLOURS[colour]).standing()
    return (f"plant in a {colour} pot" if name == "plant" else f"{colour} {name}"), made
