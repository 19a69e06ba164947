"""The renderer against rays traced one by one in float64: what a camera sees, and in front of what."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.data.worlds import render as module
from sanakit.pocket.data.worlds.meshes import Mesh, box, joined
from sanakit.pocket.data.worlds.render import NEAR, clipped, render
from sanakit.pocket.data.worlds.rooms import Room, make_room
from sanakit.pocket.data.worlds.trajectories import look_at

SIDE = 12
ROOM = Room((5.0, 2.6, 6.0), "blue", "chequered")


def lens(side: int, degrees: float = 65.0) -> np.ndarray:
    focal = side / 2 / np.tan(np.radians(degrees) / 2)
    return np.array([focal, focal, side / 2, side / 2])


def traced(room: Room, mesh: Mesh, pose: np.ndarray, camera: np.ndarray, side: int) -> np.ndarray:
    """One ray for each sample, against every triangle (Moeller and Trumbore) and the room's six planes."""
    fine = side * module.FINE
    fx, fy, cx, cy = camera * module.FINE
    normal = np.cross(mesh.corners[:, 1] - mesh.corners[:, 0], mesh.corners[:, 2] - mesh.corners[:, 0])
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    shades = mesh.colours * (0.5 + 0.5 * np.abs(normal @ module._LIGHT.astype(float)))[:, None]
    image = np.zeros((fine, fine, 3))
    a, b, c = np.moveaxis(mesh.corners.astype(np.float64), 1, 0)
    for row in range(fine):
        for column in range(fine):
            ray = pose[:3, :3] @ np.array([(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0])
            colour, depth = room.seen(pose[:3, 3], ray[None])
            image[row, column] = colour[0]
            cross = np.cross(ray, c - a)
            whole = ((b - a) * cross).sum(1)
            away = pose[:3, 3] - a
            u = (away * cross).sum(1) / whole
            other = np.cross(away, b - a)
            v, far = (other @ ray) / whole, ((c - a) * other).sum(1) / whole
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (far > NEAR) & (far < depth[0])
            if hit.any():
                image[row, column] = shades[np.where(hit, far, np.inf).argmin()]
    return image.reshape(side, module.FINE, side, module.FINE, 3).mean((1, 3)) * 255


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_those_of_rays_traced_one_by_one(seed: int) -> None:
    """Samples on an edge may fall to either side: three pixels of 144 may differ."""
    random = np.random.default_rng(seed)
    corners = (random.normal(size=(40, 1, 3)) * 0.6 + random.normal(size=(40, 3, 3)) * 0.3).astype(np.float32)
    corners[..., 1] -= 1.2
    mesh = joined(
        [Mesh(corners, random.random((40, 3)).astype(np.float32)), box((1, 1, 1), (0.5, 0, 0), (1, 0, 0))]
    )
    room = make_room(random)
    pose = look_at(np.array([0.4, -1.3, -1.6]), np.array([0.0, -0.9, 0.0]))
    frame = render(room, mesh, pose[None], lens(SIDE), SIDE)[0]
    wrong = np.abs(frame - traced(room, mesh, pose, lens(SIDE), SIDE)).max(-1) > 1.0
    assert wrong.sum() <= 3
    assert frame.std() > 20


def test_a_point_appears_where_the_pinhole_puts_it() -> None:
    """A small red box at a known place: its middle in the image, by the definition of fx, fy, cx, cy."""
    at = np.array([0.3, -1.0, 1.2])
    mesh = box((0.1, 0.1, 0.1), (at[0], -at[1] - 0.05, at[2]), (1.0, 0.0, 0.0))
    pose = look_at(np.array([-0.5, -1.4, -1.5]), np.array([0.2, -1.0, 1.0]))
    camera = np.array([60.0, 50.0, 30.0, 34.0])  # fx and fy differ, and the middle is moved
    frame = render(ROOM, mesh, pose[None], camera, 64)[0].astype(float)
    red = (frame[..., 0] > frame[..., 1] + 60) & (frame[..., 0] > frame[..., 2] + 60)
    rows, columns = np.nonzero(red)
    seen = pose[:3, :3].T @ (at - pose[:3, 3])
    assert columns.mean() + 0.5 == pytest.approx(60 * seen[0] / seen[2] + 30, abs=0.5)
    assert rows.mean() + 0.5 == pytest.approx(50 * seen[1] / seen[2] + 34, abs=0.5)


def test_triangles_are_cut_at_the_near_plane() -> None:
    whole = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], np.float32)
    one = np.array([[0, 0, 1], [1, 0, -1], [0, 1, -1]], np.float32)
    two = np.array([[0, 0, -1], [1, 0, 1], [0, 1, 1]], np.float32)
    behind = -whole
    parts, colours = clipped(np.stack([whole, one, two, behind]), np.eye(4, 3, dtype=np.float32))
    assert [tuple(colour) for colour in colours] == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1)]
    assert (parts[..., 2] >= NEAR - 1e-6).all()

    def area(triangles: np.ndarray) -> float:
        return np.linalg.norm(
            np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1
        ).sum()

    lone = (1 - NEAR) / 2  # share of the way to the plane
    assert area(parts[1:2]) == pytest.approx(lone**2 * area(one[None]), rel=1e-5)
    assert area(parts[2:]) == pytest.approx((1 - ((1 + NEAR) / 2) ** 2) * area(two[None]), rel=1e-5)
