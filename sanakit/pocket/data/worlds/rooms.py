"""Made rooms: a box with patterns, windows and images on its walls, a rug and soft shadows.

Nothing of a room is a triangle: rays from the camera, which is inside, meet one of six planes. Axes and units
are those of `meshes.py`; the middle of the floor is the origin.
Shapes: R rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sanakit.pocket.data.worlds.made import COLOURS, WOOD
from sanakit.pocket.data.worlds.meshes import Colour

CEILING, FLOOR = 2, 3  # faces are numbered x-, x+, y- (above), y+ (below), z-, z+
WALLS = (0, 1, 4, 5)
BRIGHT = np.array([0.82, 0.74, 1.0, 0.92, 0.88, 0.68], np.float32)  # of the faces, so that corners show
FLOORS: dict[str, tuple[Colour, Colour]] = {
    "wooden": (WOOD, (0.53, 0.36, 0.21)),
    "chequered": ((0.9, 0.9, 0.88), (0.25, 0.25, 0.28)),
    "tiled": ((0.75, 0.73, 0.7), (0.66, 0.63, 0.6)),
    "stone": ((0.58, 0.58, 0.6), (0.5, 0.5, 0.53)),
}


@dataclass(frozen=True, slots=True)
class FacePanel:
    """A rectangle on a face: a window, an image or a rug, with a frame around it."""

    face: int
    low: tuple[float, float]  # of its two coordinates on the face, in metres
    high: tuple[float, float]
    colour: Colour
    frame: Colour


@dataclass(frozen=True, slots=True)
class Room:
    """A room of a width, height and depth in metres.

    walls: the colour's name. floor: one of `FLOORS`. shadows: x, z and radius of what stands on the floor.
    """

    size: tuple[float, float, float]
    walls: str
    floor: str
    striped: bool = False
    panels: tuple[FacePanel, ...] = ()
    shadows: tuple[tuple[float, float, float], ...] = ()

    @property
    def limits(self) -> np.ndarray:
        """The least and the largest coordinates, 2 3."""
        wide, high, deep = self.size
        return np.array([[-wide / 2, -high, -deep / 2], [wide / 2, 0, deep / 2]])

    def seen(self, eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the colours that rays (R 3) from a point inside meet, R 3, and how many of them fit before.

        Of rays that go 1 metre forward, the second is the depth.
        """
        ahead = rays > 0
        along = rays == 0  # meets neither of the two planes of this axis
        reach = np.where(ahead, self.limits[1], self.limits[0]) - eye
        far = np.where(along, np.inf, reach / np.where(along, 1.0, rays))
        axis = far.argmin(1)
        rows = np.arange(len(rays))
        depth = far[rows, axis]
        face = 2 * axis + ahead[rows, axis]
        place = eye + depth[:, None] * rays
        colours = np.empty((len(rays), 3), np.float32)
        for number in range(6):
            own = face == number
            if own.any():
                first, second = _on_face(number)
                colours[own] = self._face(number, place[own, first], place[own, second])
        return colours, depth

    def _face(self, face: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the colours of places on a face, in metres."""
        wall = np.array(COLOURS[self.walls], np.float32)
        pale = 0.45 * wall + 0.52
        if face == FLOOR:
            first, second = (np.array(colour, np.float32) for colour in FLOORS[self.floor])
            colour = np.where(self._tiles(u, v)[:, None], first, second)
            for x, z, radius in self.shadows:
                away = ((u - x) ** 2 + (v - z) ** 2) / (1.2 * radius) ** 2
                colour = colour * (1 - 0.5 * np.exp(-(away**2)))[:, None]
        elif face == CEILING:
            colour = np.full((len(u), 3), 0.95, np.float32)
        else:
            striped = np.floor(u / 0.35).astype(np.int64) % 2 == 1
            colour = np.where((striped & self.striped)[:, None], 0.85 * pale, pale)
            colour = np.where((v > -0.12)[:, None], 0.5 * wall + 0.1, colour)  # a skirting board
        for panel in self.panels:
            if panel.face == face:
                inside = (u > panel.low[0]) & (u < panel.high[0]) & (v > panel.low[1]) & (v < panel.high[1])
                edge = np.minimum(
                    np.minimum(u - panel.low[0], panel.high[0] - u),
                    np.minimum(v - panel.low[1], panel.high[1] - v),
                )
                drawn = np.where((edge < 0.06)[:, None], panel.frame, panel.colour)
                colour = np.where(inside[:, None], drawn, colour)
        return (colour * BRIGHT[face]).astype(np.float32)

    def _tiles(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return which of two colours the floor has at places."""
        if self.floor == "wooden":
            return np.floor(x / 0.22).astype(np.int64) % 2 == 0
        step = 0.5 if self.floor == "chequered" else 0.8
        return (np.floor(x / step) + np.floor(z / step)).astype(np.int64) % 2 == 0


def make_room(random: np.random.Generator) -> Room:
    """Return an empty room of a random size, with windows, images or entrances, and perhaps a rug."""
    wide, deep = random.uniform(4.5, 7.0, 2)
    high = random.uniform(2.4, 3.0)
    names = list(COLOURS)
    sky: Colour = (0.62, 0.8, 0.95)
    panels: list[FacePanel] = []
    for face in WALLS:
        reach = (deep if face < CEILING else wide) / 2
        kind = int(random.integers(4))
        middle = random.uniform(-reach + 1.0, reach - 1.0)
        named = COLOURS[names[int(random.integers(len(names)))]]
        if kind == 0:  # an entrance, which reaches the floor
            panels.append(FacePanel(face, (middle - 0.45, -2.0), (middle + 0.45, 0.0), named, WOOD))
        elif kind == 1:  # a window
            panels.append(FacePanel(face, (middle - 0.7, -2.0), (middle + 0.7, -0.9), sky, COLOURS["white"]))
        elif kind == 2:
            panels += _images(random, face, middle, names)
    if random.random() < 0.5:
        x, z = random.uniform(-0.8, 0.8, 2)
        rug, edge = (COLOURS[names[int(i)]] for i in random.integers(len(names), size=2))
        panels.append(FacePanel(FLOOR, (x - 1.1, z - 0.8), (x + 1.1, z + 0.8), rug, edge))
    return Room(
        (float(wide), float(high), float(deep)),
        names[int(random.integers(len(names)))],
        list(FLOORS)[int(random.integers(len(FLOORS)))],
        striped=bool(random.random() < 0.3),
        panels=tuple(panels),
    )


def _images(random: np.random.Generator, face: int, middle: float, names: Sequence[str]) -> list[FacePanel]:
    """Return two images side by side, in two colours."""
    first, second = (COLOURS[names[int(i)]] for i in random.integers(len(names), size=2))
    return [
        FacePanel(face, (middle - 0.8, -1.8), (middle - 0.1, -1.1), first, COLOURS["black"]),
        FacePanel(face, (middle + 0.1, -1.7), (middle + 0.7, -1.2), second, WOOD),
    ]


def _on_face(face: int) -> tuple[int, int]:
    """Return which two coordinates say where on a face a place lies; on walls the second is y."""
    return ((2, 1), (0, 2), (0, 1))[face // 2]
