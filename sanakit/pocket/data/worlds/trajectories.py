"""Camera paths through a made room, in families; one family is held out to measure on.

Speeds are spread around those of held keys (`pipelines/world/actions.py`: 0.025 metres and 0.6 degrees a
frame), so that a model knows what keys ask for. Poses are camera-to-world with OpenCV's axes in the room's
own frame of reference. Shapes: F frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sanakit.pipelines.world.actions import ACTION_DIALECTS, action_poses

SPEED = (0.012, 0.06)  # metres a frame
TURN = (0.4, 1.8)  # degrees a frame
HELD_OUT = "diagonal"
KEYS = ("w", "s", "a", "d", "j", "l", "wa", "wd", "i", "k", "none")
SEGMENTS = (1, 2, 3)  # of a path by keys


@dataclass(frozen=True, slots=True)
class Start:
    """Where a path begins: a place, 3, and the place that the camera looks at; frames of the path."""

    eye: np.ndarray
    target: np.ndarray
    frames: int


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the upright pose at a place that looks at another one, 4 4."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    across = np.cross([0.0, 1.0, 0.0], ahead)
    across /= np.linalg.norm(across)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([across, np.cross(ahead, across), ahead], axis=1)
    pose[:3, 3] = eye
    return pose


def orbit(start: Start, random: np.random.Generator) -> np.ndarray:
    """Go round what it looks at, and keep looking at it."""
    step = math.radians(_signed(random, TURN))
    away = start.eye - start.target
    poses = []
    for number in range(start.frames):
        c, s = math.cos(step * number), math.sin(step * number)
        turned = np.array([c * away[0] + s * away[2], away[1], c * away[2] - s * away[0]])
        poses.append(look_at(start.target + turned, start.target))
    return np.stack(poses)


def dolly(start: Start, random: np.random.Generator) -> np.ndarray:
    """Go ahead or back."""
    return _straight(start, np.array([0.0, 0.0, _signed(random, SPEED)]))


def strafe(start: Start, random: np.random.Generator) -> np.ndarray:
    """Step aside."""
    return _straight(start, np.array([_signed(random, SPEED), 0.0, 0.0]))


def diagonal(start: Start, random: np.random.Generator) -> np.ndarray:
    """Go ahead or back and aside at once."""
    return _straight(start, np.array([_signed(random, SPEED), 0.0, _signed(random, SPEED)]))


def turn(start: Start, random: np.random.Generator) -> np.ndarray:
    """Turn on the spot."""
    first, step = look_at(start.eye, start.target), math.radians(_signed(random, TURN))
    poses = np.tile(first, (start.frames, 1, 1))
    for number in range(start.frames):
        c, s = math.cos(step * number), math.sin(step * number)
        poses[number, :3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ first[:3, :3]
    return poses


def crane(start: Start, random: np.random.Generator) -> np.ndarray:
    """Rise or sink, and keep looking at the same place."""
    step = _signed(random, (SPEED[0], SPEED[1] / 2))
    eyes = start.eye + np.arange(start.frames)[:, None] * np.array([0.0, step, 0.0])
    return np.stack([look_at(eye, start.target) for eye in eyes])


def keys(start: Start, random: np.random.Generator) -> np.ndarray:
    """Hold keys, in one of the published dialects."""
    count = int(random.choice(SEGMENTS))
    cuts = np.linspace(0, start.frames - 1, count + 1).round().astype(int)
    held = [KEYS[int(i)] for i in random.integers(len(KEYS), size=count)]
    text = ",".join(f"{key}-{n}" for key, n in zip(held, np.diff(cuts).tolist(), strict=True))
    dialect = ACTION_DIALECTS[sorted(ACTION_DIALECTS)[int(random.integers(len(ACTION_DIALECTS)))]]
    return look_at(start.eye, start.target) @ action_poses(text, dialect).numpy()


def out_and_back(start: Start, random: np.random.Generator) -> np.ndarray:
    """Go half of a path of another family, and the same way back."""
    way = (orbit, dolly, strafe, turn)[int(random.integers(4))]
    half = way(Start(start.eye, start.target, (start.frames + 1) // 2), random)
    return np.concatenate([half, half[::-1]])[: start.frames] if start.frames % 2 == 0 else _returned(half)


# Family -> its paths. Those of one are held out.
FAMILIES: dict[str, Callable[[Start, np.random.Generator], np.ndarray]] = {
    "orbit": orbit,
    "dolly": dolly,
    "strafe": strafe,
    "turn": turn,
    "crane": crane,
    "keys": keys,
    "out-and-back": out_and_back,
    HELD_OUT: diagonal,
}


def _returned(half: np.ndarray) -> np.ndarray:
    return np.concatenate([half, half[-2::-1]])


def _straight(start: Start, step: np.ndarray) -> np.ndarray:
    """Go by a step a frame, along the camera's axes as they lie in the horizontal plane."""
    first = look_at(start.eye, start.target)
    flat = first[:3, :3] * np.array([[1.0], [0.0], [1.0]])
    flat[:, [0, 2]] /= np.linalg.norm(flat[:, [0, 2]], axis=0)
    poses = np.tile(first, (start.frames, 1, 1))
    poses[:, :3, 3] += np.arange(start.frames)[:, None] * (flat @ step)
    return poses


def _signed(random: np.random.Generator, limits: tuple[float, float]) -> float:
    size = float(random.uniform(*limits))
    return size if random.random() < 0.5 else -size
