"""Scenes: a made room with one main thing in its middle and made furniture around it, and paths in it.

A path stays inside the room, above the floor, and outside of all things. Shapes: F frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sanakit.pocket.data.worlds.made import MADE, make_thing
from sanakit.pocket.data.worlds.meshes import Mesh, joined
from sanakit.pocket.data.worlds.rooms import Room, make_room
from sanakit.pocket.data.worlds.trajectories import FAMILIES, Start

MARGIN = 0.3  # metres between a camera and walls, floor, ceiling, and the outlines of things
BESIDE = 3  # things around the main one, at most
TRIES = 60  # starts of a path that are tried in one scene
MAIN_REACH = (0.35, 0.9)  # metres: smaller or larger main things are scaled to these


@dataclass(frozen=True, slots=True, eq=False)
class RoomScene:
    """A room and all its triangles. main: the name of the thing in the middle. things: those around it.

    solid: x, z and radius of each. height: of the main thing in metres.
    """

    room: Room
    mesh: Mesh
    main: str
    things: tuple[str, ...]
    solid: np.ndarray
    height: float

    def captions(self) -> list[str]:
        """Return sentences about it, which are shown alike."""
        walls = f"a room with {self.room.walls} walls and {_article(self.room.floor)} floor"
        main = _article(self.main)
        found = [f"{main} in {walls}", f"{main} in a room", main]
        if self.things:
            beside = " and ".join(map(_article, self.things))
            found.append(f"{main} in {walls}, with {beside} around it")
        return found


def make_scene(random: np.random.Generator, main: str, mesh: Mesh) -> RoomScene:
    """Return a scene around a thing that stands on the floor."""
    room = make_room(random)
    scale = np.clip(mesh.radius, *MAIN_REACH) / mesh.radius
    mesh = replace(mesh, corners=mesh.corners * np.float32(min(scale, 2.2 / -mesh.bounds[0, 1])))
    at = random.uniform(-0.5, 0.5, 2)
    placed = [mesh.placed(float(random.uniform(0, 2 * np.pi)), *at.tolist())]
    solid, names = [(*at.tolist(), mesh.radius)], list[str]()
    for _ in range(int(random.integers(BESIDE + 1))):
        kind = list(MADE)[int(random.integers(len(MADE)))]
        name, thing = make_thing(random, kind)
        reach = np.array([room.size[0], room.size[2]]) / 2 - thing.radius
        x, z = random.uniform(-reach, reach).tolist()
        if all(np.hypot(x - ox, z - oz) > thing.radius + radius + 0.2 for ox, oz, radius in solid):
            placed.append(thing.placed(float(random.uniform(0, 2 * np.pi)), x, z))
            solid.append((x, z, thing.radius))
            names.append(name)
    room = replace(room, shadows=tuple(solid))
    return RoomScene(room, joined(placed), main, tuple(names), np.array(solid), -float(mesh.bounds[0, 1]))


def make_path(scene: RoomScene, family: str, frames: int, random: np.random.Generator) -> np.ndarray | None:
    """Return a path of a family that a camera can take, F 4 4, or None after `TRIES` of them.

    It begins with the main thing in sight.
    """
    limits = scene.room.limits
    x, z, radius = scene.solid[0]
    for _ in range(TRIES):
        away, angle = radius + random.uniform(0.9, 2.4), random.uniform(0, 2 * np.pi)
        eye = np.array([x + away * np.sin(angle), -random.uniform(0.7, 1.8), z + away * np.cos(angle)])
        aside = random.uniform(-0.3, 0.3, 2)
        target = np.array([x + aside[0], -scene.height * random.uniform(0.3, 0.8), z + aside[1]])
        poses = FAMILIES[family](Start(eye, target, frames), random)
        if _is_free(poses[:, :3, 3], limits, scene.solid):
            return poses
    return None


def _is_free(eyes: np.ndarray, limits: np.ndarray, solid: np.ndarray) -> bool:
    inside = (eyes > limits[0] + MARGIN).all() and (eyes < limits[1] - MARGIN).all()
    apart = np.hypot(eyes[:, None, 0] - solid[:, 0], eyes[:, None, 2] - solid[:, 1]) - solid[:, 2]
    return bool(inside and (apart > MARGIN).all())


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
