"""Folders of true clips of a painted wall with their cameras."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.pipelines.world.actions import STRAFING, action_poses
from sanakit.pipelines.world.paths import CameraPath
from tests.eval.metrics.walls import FOCAL, SIDE, seen

LENS = Tensor([FOCAL, FOCAL, (SIDE - 1) / 2, (SIDE - 1) / 2]).double()
PATHS = ("d-16", "a-16", "w-16", "i-16")


def save_clip(folder: Path, name: str, path: str | Tensor, wall: int = 0, suffix: str = "") -> None:
    """Write NAME, a folder of frames unless a suffix says other, and NAME.json."""
    poses = action_poses(path, STRAFING) if isinstance(path, str) else path
    folder.mkdir(parents=True, exist_ok=True)
    VideoClip(frames=seen(poses, wall), rate=16).save(folder / f"{name}{suffix}")  # pyright: ignore
    CameraPath(poses, LENS.expand(len(poses), 4), SIDE, SIDE).save(folder / f"{name}.json")


def save_scenes(folder: Path, walls: int = 1, paths: tuple[str, ...] = PATHS) -> Path:
    for wall in range(walls):
        for path in paths:
            save_clip(folder, f"{wall}-{path}", path, wall)
    return folder
