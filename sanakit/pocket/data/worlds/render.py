"""Scenes to frames, without a GPU or OpenGL: rays for the room, a depth buffer for triangles.

A pinhole camera looks along z. Pixels are squares: the middle of the first one lies at (0.5, 0.5), so that a
camera that looks at the middle of S pixels has cx = S / 2. Each pixel is the mean of FINE x FINE samples.
Triangles that reach behind the camera are cut at the near plane. Only numpy is used: the same scene gives the
same frames on every machine with the same numpy.
Shapes: F frames, S side in pixels, N triangles.
"""

from __future__ import annotations

import numpy as np

from sanakit.pocket.data.worlds.meshes import Mesh
from sanakit.pocket.data.worlds.rooms import Room

FINE = 2  # samples of a pixel along each side
NEAR = 0.05  # metres in front of the camera, from which on triangles are drawn
_AT_ONCE = 1 << 20  # samples of triangles that are tested together
_LIGHT = np.array([0.35, -0.8, -0.48], np.float32)  # towards it


def render(room: Room, mesh: Mesh, poses: np.ndarray, lens: np.ndarray, side: int) -> np.ndarray:
    """Return what a camera sees on its way, F S S 3 uint8.

    poses: F 4 4, camera-to-world. lens: fx, fy, cx, cy in pixels.
    """
    shaded = mesh.colours * _lit(mesh.corners)[:, None]
    fine = np.asarray(lens, np.float64) * FINE
    return np.stack([_frame(room, mesh.corners, shaded, pose, fine, side) for pose in poses])


def _lit(corners: np.ndarray) -> np.ndarray:
    """Return how bright each triangle is, N; both of its sides are alike."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    return (0.5 + 0.5 * np.abs(normal @ _LIGHT)).astype(np.float32)


def _frame(
    room: Room, corners: np.ndarray, colours: np.ndarray, pose: np.ndarray, lens: np.ndarray, side: int
) -> np.ndarray:
    size = side * FINE
    fx, fy, cx, cy = lens
    places = np.arange(size) + 0.5
    local = np.stack(np.broadcast_arrays((places - cx) / fx, ((places - cy) / fy)[:, None], 1.0), axis=-1)
    image, depth = room.seen(pose[:3, 3], (local @ pose[:3, :3].T).reshape(-1, 3))
    nearness = (1 / depth).astype(np.float32)  # linear over a triangle's pixels
    seen = ((corners - pose[:3, 3]) @ pose[:3, :3]).astype(np.float32)  # N 3 3, as the camera has it
    seen, colours = clipped(seen, colours)
    _draw(seen, colours, lens.astype(np.float32), size, image, nearness)
    fine = image.reshape(side, FINE, side, FINE, 3).mean((1, 3))
    return np.rint(255 * fine.clip(0, 1)).astype(np.uint8)


def clipped(corners: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of triangles (N 3 3, in the camera's axes) that lie in front of the near plane.

    A triangle with one corner behind the plane becomes two.
    """
    before = corners[..., 2] >= NEAR
    count = before.sum(1)
    parts, kept = [corners[count == 3]], [colours[count == 3]]
    for inside in (1, 2):
        which = count == inside
        if not which.any():
            continue
        # Roll the corner that differs from the two others to the front.
        lone = (before[which] if inside == 1 else ~before[which]).argmax(1)
        order = (lone[:, None] + np.arange(3)) % 3
        tip, one, two = np.take_along_axis(corners[which], order[..., None], axis=1).swapaxes(0, 1)
        first, second = _crossing(tip, one), _crossing(tip, two)
        faces = [(tip, first, second)] if inside == 1 else [(first, one, two), (first, two, second)]
        parts += [np.stack(face, axis=1) for face in faces]
        kept += [colours[which]] * len(faces)
    return np.concatenate(parts), np.concatenate(kept)


def _crossing(tip: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return where the line from one point to another crosses the near plane."""
    share = (NEAR - tip[:, 2:]) / (other[:, 2:] - tip[:, 2:])
    return tip + share * (other - tip)


def _draw(
    seen: np.ndarray,
    colours: np.ndarray,
    lens: np.ndarray,
    size: int,
    image: np.ndarray,
    nearness: np.ndarray,
) -> None:
    """Draw triangles over an image (S*S 3) where they are nearer. nearness: S*S, one over the depth."""
    points = seen[..., :2] / seen[..., 2:] * lens[:2] + lens[2:]  # N 3 2, samples
    low = np.ceil(points.min(1) - 0.5).clip(0, size).astype(np.int64)  # the first sample inside
    high = np.floor(points.max(1) - 0.5).clip(-1, size - 1).astype(np.int64)
    extent = (high - low + 1).min(1), (high - low + 1).max(1)
    area = _cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    shown = (extent[0] > 0) & (np.abs(area) > 1e-9)
    reach = 1
    while True:  # triangles of about one size together, from the smallest on
        own = np.flatnonzero(shown & (extent[1] <= reach))
        shown[own] = False
        for start in range(0, len(own), most := max(1, _AT_ONCE // reach**2)):
            some = own[start : start + most]
            _draw_alike(
                points[some],
                1 / seen[some, :, 2],
                area[some],
                low[some],
                reach,
                size,
                nearness,
                image,
                colours[some],
            )
        if not shown.any():
            return
        reach *= 2


def _draw_alike(
    points: np.ndarray,
    inverse: np.ndarray,
    area: np.ndarray,
    low: np.ndarray,
    reach: int,
    size: int,
    nearness: np.ndarray,
    image: np.ndarray,
    colours: np.ndarray,
) -> None:
    """Draw triangles that all lie within `reach` samples of their first one. inverse: N 3, 1 / depth."""
    steps = np.stack(np.meshgrid(np.arange(reach), np.arange(reach)), axis=-1).reshape(-1, 2)
    places = low[:, None] + steps  # N K 2
    middle = places.astype(np.float32) + np.float32(0.5)
    a, b, c = (points[:, None, i] for i in range(3))
    of_a = _cross(b - middle, c - middle) / area[:, None]
    of_b = _cross(c - middle, a - middle) / area[:, None]
    of_c = 1 - of_a - of_b
    inside = (of_a >= 0) & (of_b >= 0) & (of_c >= 0) & (places < size).all(-1)
    triangle, sample = np.nonzero(inside)
    x, y = places[triangle, sample].T
    index = y * size + x
    near = (
        of_a[inside] * inverse[triangle, 0]
        + of_b[inside] * inverse[triangle, 1]
        + of_c[inside] * inverse[triangle, 2]
    ).astype(np.float32)
    before = nearness[index]
    np.maximum.at(nearness, index, near)
    wins = (near >= nearness[index]) & (near > before)
    image[index[wins]] = colours[triangle[wins]]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
