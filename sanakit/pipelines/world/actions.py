"""Keys that move a camera: texts such as "w-24,dw-48" to poses, frame by frame, and on from where it stands.

A text is a list of held keys and how many frames they are held; "none" stands for no key. Axes are OpenCV's
(x right, y down, z forward), poses are camera-to-world. Every frame the camera turns, R <- Ry(yaw) R
Rx(pitch), then walks along its forward and right axes as they lie in the horizontal plane.

Two dialects are published with SANA-WM, in which the same letters mean different things. In both w and s walk
forward and back, i and k look up and down.
- `STRAFING`: a and d step aside, j and l turn; 0.05 units and 1.2 degrees a frame; no step beyond a pitch of
  85. Source: `action_string_to_c2w` of diffusers' SANA-WM pipeline.
- `TURNING`: a and d turn, j and l step aside; 0.025 units and 0.6 degrees a frame, eased; the pitch stops at
  60. Source: the authors' `camera_control.py`, since the streaming release.
Shapes: F frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sanakit.errors import SettingsError

FRAMES_PER_SECOND = 16  # of SANA-WM; what eases does so in seconds
PRESSED, RELEASED = 0.45, 1.0  # seconds in which all but 1/e of a change of speed is done
MOST_FRAMES = 100_000  # of one text
_KEYS = frozenset("wasdijkl")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionDialect:
    """The meaning of keys, and how fast they move and turn."""

    name: str
    aside: str  # the keys of a step to the left and to the right
    turn: str  # the keys of a turn to the left and to the right
    speed: float  # units of length a frame
    degrees: float  # of turning and looking, a frame
    pitch_limit: float  # degrees up and down
    eased: (
        bool  # speeds change by and by, unless a key was just pressed; looking up stops at the limit itself
    )


STRAFING = ActionDialect(
    name="strafing", aside="ad", turn="jl", speed=0.05, degrees=1.2, pitch_limit=85.0, eased=False
)
TURNING = ActionDialect(
    name="turning", aside="jl", turn="ad", speed=0.025, degrees=0.6, pitch_limit=60.0, eased=True
)
ACTION_DIALECTS = {dialect.name: dialect for dialect in (STRAFING, TURNING)}


@dataclass(frozen=True, slots=True)
class Velocity:
    """How a camera moves from one frame to the next."""

    forward: float = 0.0
    right: float = 0.0
    yaw: float = 0.0  # radians, to the right
    pitch: float = 0.0  # radians, up

    def eased_to(self, aim: Velocity) -> Velocity:
        """Return the velocity of the next frame on the way to what keys ask for."""

        def next_one(now: float, wanted: float) -> float:
            seconds = PRESSED if wanted else RELEASED
            return now + (1 - math.exp(-1 / (FRAMES_PER_SECOND * seconds))) * (wanted - now)

        return Velocity(
            next_one(self.forward, aim.forward),
            next_one(self.right, aim.right),
            next_one(self.yaw, aim.yaw),
            next_one(self.pitch, aim.pitch),
        )


@dataclass(frozen=True, slots=True)
class Walker:
    """A camera that walks: where it is, and how it moves. A kept one is a place to go back to."""

    dialect: ActionDialect = TURNING
    pose: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))
    pitch: float = 0.0  # radians, up
    velocity: Velocity = Velocity()
    held: frozenset[str] = frozenset()

    def walk(self, text: str) -> tuple[Tensor, Walker]:
        """Return the pose of each frame of a text, F 4 4 in float64, and the walker behind the last of them.

        Raises SettingsError for a text that cannot be read.
        """
        return self.hold(parse_actions(text))

    def hold(self, frames: Sequence[frozenset[str]]) -> tuple[Tensor, Walker]:
        """Return as `walk` does for the keys that are held in each of at least one frame."""
        walker, poses = self, []
        for keys in frames:
            walker = walker._step(keys)
            poses.append(walker.pose)
        return torch.stack(poses), walker

    def standing_at(self, pose: Tensor) -> Walker:
        """Return a walker with the same keys that stands still at a pose, 4 4, and looks along it."""
        up = math.asin(max(-1.0, min(1.0, -float(pose[1, 2]))))
        return Walker(self.dialect, pose.double(), up)

    def _step(self, keys: frozenset[str]) -> Walker:
        """Return the walker one frame later."""
        said = self.dialect
        speed, angle = said.speed, math.radians(said.degrees)
        aim = Velocity(
            speed * (("w" in keys) - ("s" in keys)),
            speed * ((said.aside[1] in keys) - (said.aside[0] in keys)),
            angle * ((said.turn[1] in keys) - (said.turn[0] in keys)),
            angle * (("i" in keys) - ("k" in keys)),
        )
        velocity = self.velocity.eased_to(aim) if said.eased and keys <= self.held else aim
        limit, pitch = math.radians(said.pitch_limit), self.pitch + velocity.pitch
        if said.eased:
            pitch = max(-limit, min(limit, pitch))
        elif abs(pitch) > limit:
            pitch = self.pitch
        pose = self.pose.clone()
        pose[:3, :3] = _about_y(velocity.yaw) @ self.pose[:3, :3] @ _about_x(pitch - self.pitch)
        pose[:3, 3] += velocity.forward * _level(pose[:3, 2]) + velocity.right * _level(pose[:3, 0])
        return replace(self, pose=pose, pitch=pitch, velocity=velocity, held=keys)


def action_poses(text: str, dialect: ActionDialect = TURNING) -> Tensor:
    """Return the path of a text from its start, F+1 4 4 in float64: one pose more than it has frames.

    Raises SettingsError for a text that cannot be read.
    >>> action_poses("w-2", STRAFING)[:, 2, 3].tolist()
    [0.0, 0.05, 0.1]
    """
    start = Walker(dialect)
    return torch.cat([start.pose[None], start.walk(text)[0]])


def parse_actions(text: str) -> list[frozenset[str]]:
    """Return the keys that are held in each frame.

    >>> [sorted(keys) for keys in parse_actions("wd-1, none-2")]
    [['d', 'w'], [], []]
    """
    frames: list[frozenset[str]] = []
    for part in "".join(text.split()).split(","):
        keys, dash, count = part.lower().rpartition("-")
        digits = dash and count.isascii() and count.isdigit()
        number = int(count.lstrip("0")[:9] or 0) if digits else 0
        if not number:
            raise SettingsError(
                f"{part!r} is not an action: write held keys, a dash and a number of frames, as in "
                '"w-24,dw-48,none-8".'
            )
        held = frozenset() if keys == "none" else frozenset(keys)
        if unknown := sorted(held - _KEYS):
            raise SettingsError(
                f"{part!r} holds unknown keys ({', '.join(unknown)}): use {', '.join(sorted(_KEYS))} or none."
            )
        if keys == "":
            raise SettingsError(f'{part!r} names no keys: write "none{part}" for a camera that stands still.')
        if len(frames) + number > MOST_FRAMES:
            raise SettingsError(f"The actions take more than {MOST_FRAMES:,} frames: make them shorter.")
        frames += [held] * number
    return frames


def find_dialect(name: str) -> ActionDialect:
    """Return the dialect of that name. Raises SettingsError."""
    if name not in ACTION_DIALECTS:
        text = f"{name!r} is not a dialect of keys: use {' or '.join(ACTION_DIALECTS)}."
        raise SettingsError(text, setting="keys")
    return ACTION_DIALECTS[name]


def _level(axis: Tensor) -> Tensor:
    """Return the unit vector of an axis as it lies in the horizontal plane; zero where it stands upright."""
    flat = axis * torch.tensor([1.0, 0.0, 1.0], dtype=axis.dtype)
    return torch.nn.functional.normalize(flat, dim=0)


def _about_y(angle: float) -> Tensor:
    """Return a turn to the right, about the down axis."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)


def _about_x(angle: float) -> Tensor:
    """Return a look up, about the right axis."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
