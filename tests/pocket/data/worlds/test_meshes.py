"""Solids of made furniture: their sizes and places, and how they are turned and put down."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sanakit.pocket.data.worlds.meshes import Mesh, ball, box, cone, joined

RED = (1.0, 0.0, 0.0)


def volume(mesh: Mesh) -> float:
    """By the divergence theorem, from triangles whose sides need not agree."""
    middle = mesh.corners.reshape(-1, 3).mean(0)
    a, b, c = np.moveaxis(mesh.corners.astype(np.float64) - middle, 1, 0)
    return float(np.abs((a * np.cross(b, c)).sum(1)).sum() / 6)


def test_a_box_has_its_size_above_its_place() -> None:
    found = box((0.6, 0.8, 0.4), (1.0, 0.2, -2.0), RED)
    np.testing.assert_allclose(found.bounds, [[0.7, -1.0, -2.2], [1.3, -0.2, -1.8]], atol=1e-6)
    assert len(found.corners) == 12
    assert volume(found) == pytest.approx(0.6 * 0.8 * 0.4, rel=1e-5)
    assert (found.colours == RED).all()


def test_cones_and_balls_have_the_volume_of_their_polygons() -> None:
    sides = 24
    area = sides / 2 * math.sin(2 * math.pi / sides)  # of the polygon in the unit circle
    assert volume(cone((0.5, 0.5), 0.8, (0, 0, 0), RED, sides)) == pytest.approx(area * 0.25 * 0.8, rel=1e-4)
    assert volume(cone((0.5, 0.0), 0.6, (1, 0, 1), RED, sides)) == pytest.approx(area * 0.25 * 0.2, rel=0.02)
    found = ball(0.5, (0, 0.1, 0), RED)
    assert found.bounds[:, 1].tolist() == pytest.approx([-1.1, -0.1])


def test_things_are_turned_about_the_vertical_and_put_on_the_floor() -> None:
    off = Mesh(box((0.6, 0.8, 0.4), (3, 2, 1), RED).corners, np.zeros((12, 3)))
    standing = off.standing()
    np.testing.assert_allclose(standing.bounds, [[-0.3, -0.8, -0.2], [0.3, 0, 0.2]], atol=1e-6)
    assert standing.radius == pytest.approx(math.hypot(0.3, 0.2))
    placed = standing.placed(math.pi / 2, 1.0, -1.0)
    np.testing.assert_allclose(placed.bounds, [[0.8, -0.8, -1.3], [1.2, 0, -0.7]], atol=1e-6)
    both = joined([standing, placed])
    assert len(both.corners) == len(both.colours) == 24
