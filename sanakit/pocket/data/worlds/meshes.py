"""Coloured triangles, and the plain solids that made furniture is built of.

Axes are OpenCV's, as those of cameras: x right, y down, z forward, in metres. The floor lies at y = 0, so
that what stands on it has negative y. Shapes: N triangles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

Colour = tuple[float, float, float]  # red, green and blue in [0, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Triangles of one colour each. corners: N 3 3. colours: N 3, in [0, 1]."""

    corners: np.ndarray
    colours: np.ndarray

    @property
    def bounds(self) -> np.ndarray:
        """The least and the largest coordinates, 2 3."""
        points = self.corners.reshape(-1, 3)
        return np.stack([points.min(0), points.max(0)])

    @property
    def radius(self) -> float:
        """How far it reaches from the vertical axis, in metres."""
        return float(np.hypot(self.corners[..., 0], self.corners[..., 2]).max())

    def placed(self, turn: float, x: float, z: float) -> Mesh:
        """Return the mesh turned about the vertical axis (radians), then moved along the floor."""
        c, s = math.cos(turn), math.sin(turn)
        turned = self.corners @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], self.corners.dtype).T
        return replace(self, corners=turned + np.array([x, 0, z], self.corners.dtype))

    def standing(self) -> Mesh:
        """Return the mesh with its middle on the vertical axis, and its lowest point on the floor."""
        least, most = self.bounds
        moved = np.array([(least[0] + most[0]) / 2, most[1], (least[2] + most[2]) / 2])
        return replace(self, corners=self.corners - moved.astype(self.corners.dtype))


def joined(parts: Sequence[Mesh]) -> Mesh:
    """Return all triangles of some meshes."""
    return Mesh(
        np.concatenate([one.corners for one in parts]), np.concatenate([one.colours for one in parts])
    )


def box(size: Sequence[float], at: Sequence[float], colour: Colour) -> Mesh:
    """Return a box. size: across, high, deep. at: the middle of its lower side; y is upwards here."""
    wide, high, deep = size
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (0, 1) for z in (-0.5, 0.5)], np.float32)
    points = signs * np.array([wide, -high, deep], np.float32) + np.array([at[0], -at[1], at[2]], np.float32)
    sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = [part for a, b, c, d in sides for part in ((a, b, c), (a, c, d))]
    return _coloured(points[np.array(faces)], colour)


def cone(
    radii: tuple[float, float], high: float, at: Sequence[float], colour: Colour, sides: int = 12
) -> Mesh:
    """Return a cone or cylinder. radii: below and above. at: the middle of its lower end; y is upwards."""
    angles = 2 * math.pi * np.arange(sides + 1) / sides
    ring = np.stack([np.cos(angles), np.zeros_like(angles), np.sin(angles)], axis=1)
    lower, upper = ring * radii[0], ring * radii[1] - [0, high, 0]
    foot, tip = np.zeros((sides, 3)), np.tile([0.0, -high, 0.0], (sides, 1))
    faces = [
        np.stack([lower[:-1], lower[1:], upper[1:]], axis=1),
        np.stack([lower[:-1], upper[1:], upper[:-1]], axis=1),
        np.stack([lower[:-1], lower[1:], foot], axis=1),
        np.stack([upper[:-1], upper[1:], tip], axis=1),
    ]
    corners = np.concatenate(faces) + [at[0], -at[1], at[2]]
    return _coloured(corners.astype(np.float32), colour)


def ball(radius: float, at: Sequence[float], colour: Colour, rings: int = 6) -> Mesh:
    """Return a ball of stacked cones. at: its lowest point; y is upwards."""
    heights = radius * (1 - np.cos(math.pi * np.arange(rings + 1) / rings))
    widths = radius * np.sin(math.pi * np.arange(rings + 1) / rings)
    parts = [
        cone((float(below), float(above)), float(high - low), (at[0], at[1] + float(low), at[2]), colour)
        for (low, high), (below, above) in zip(pairwise(heights), pairwise(widths), strict=True)
    ]
    return joined(parts)


def _coloured(corners: np.ndarray, colour: Colour) -> Mesh:
    return Mesh(corners, np.tile(np.array(colour, np.float32), (len(corners), 1)))
