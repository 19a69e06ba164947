"""Folders of true clips with their cameras: what worlds are measured against.

NAME.mp4 (or any clip, or a folder of frames) lies beside the camera of every frame: NAME.json, or a path as
clips to train on have it (`camera_files.py`). NAME.txt may say its prompt. Clips of one folder that begin
with the same frame are one scene: its paths are told apart by what they show. A sentence names all that is
left out.
Shapes: F frames, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError, SettingsError
from sanakit.eval.clip_folder import PROMPT, FoundClip, digest, first_frame, list_clips, read_clip, shortened
from sanakit.eval.metrics.similarity import psnr
from sanakit.images.image import to_tensor
from sanakit.pipelines.world.camera_files import BESIDE, read_cameras
from sanakit.pipelines.world.paths import CameraPath
from sanakit.reading import read_text

CAMERAS = (".json", *BESIDE)
_COLMAP = [
    f"{BESIDE[-1]}/{name}{end}" for name in ("cameras", "images", "points3D") for end in (".bin", ".txt")
]
SAME_FRAME = 30.0  # dB from which two first frames, each stored with losses, count as one
_LENS = 1e-3  # pixels by which the lens of a clip may change


@dataclass(frozen=True, slots=True, eq=False)
class WorldClip:
    """A true clip. camera: of each of its frames, for images of its size."""

    clip: FoundClip
    camera: CameraPath
    prompt: str

    @property
    def lens(self) -> Tensor:
        """fx, fy, cx, cy in pixels."""
        return self.camera.intrinsics[0]

    @property
    def key(self) -> str:
        """Tell the clip with its camera and prompt from others."""
        camera = self.camera.poses.numpy().tobytes() + self.lens.numpy().tobytes()
        told = f"{digest(self.clip.path)} {hashlib.sha256(camera).hexdigest()} {self.prompt}"
        return hashlib.sha256(told.encode()).hexdigest()

    def frames(self) -> np.ndarray:
        """Read its frames, F H W 3, uint8. Raises DataError with its name."""
        return read_clip(self.clip).frames


@dataclass(frozen=True, slots=True, eq=False)
class WorldScene:
    """Clips along several paths, or along one, that begin with the same frame."""

    clips: tuple[WorldClip, ...]

    @property
    def name(self) -> str:
        """That of its first clip."""
        return self.clips[0].clip.name

    @property
    def key(self) -> str:
        """Tell the scene from others by its clips."""
        return hashlib.sha256(" ".join(clip.key for clip in self.clips).encode()).hexdigest()

    def image(self) -> Image.Image:
        """Return the first frame."""
        return Image.fromarray(first_frame(self.clips[0].clip.path))


def list_scenes(place: str | Path) -> tuple[list[WorldScene], list[str]]:
    """Return the scenes of a folder in the order of their names, and sentences on what is left out.

    Raises DataError without a clip that has a camera, and for a damaged clip or camera.
    """
    found, notes = list_clips(place, beside=(PROMPT, *CAMERAS, *_COLMAP))
    without = [clip.name for clip in found if not _cameras(clip)]
    if len(without) == len(found):
        raise DataError(
            f"{place} has no clip with a camera: write the poses of NAME.mp4 into NAME{BESIDE[0]} beside it."
        )
    if without:
        notes.append(f"Not counted, for no camera (NAME{BESIDE[0]}) beside them: {shortened(without)}.")
    clips = [_with_camera(clip) for clip in found if clip.name not in without]
    folders: dict[Path, list[tuple[Tensor, list[WorldClip]]]] = defaultdict(list)
    for clip in clips:
        first = to_tensor(first_frame(clip.clip.path)[None].copy())
        groups = folders[clip.clip.path.parent]
        own = next((group for shown, group in groups if _same(shown, first, group[0], clip)), None)
        if own is None:
            groups.append((first, [clip]))
        else:
            own.append(clip)
    return [WorldScene(tuple(group)) for groups in folders.values() for _, group in groups], notes


def inverted(poses: Tensor) -> Tensor:
    """Return the path that turns and goes the other way: each pose's inverse, seen from the first; F 4 4."""
    return torch.linalg.inv(torch.linalg.inv(poses[:1]) @ poses)


def _same(shown: Tensor, first: Tensor, one: WorldClip, other: WorldClip) -> bool:
    alike = shown.shape == first.shape and len(one.camera.poses) == len(other.camera.poses)
    alike = alike and one.prompt == other.prompt
    return alike and torch.equal(one.lens, other.lens) and float(psnr(shown, first)) >= SAME_FRAME


def _beside(clip: FoundClip, suffix: str) -> Path:
    return clip.path.with_name(f"{Path(clip.stem).name}{suffix}")


def _cameras(clip: FoundClip) -> list[Path]:
    return [place for suffix in CAMERAS if (place := _beside(clip, suffix)).exists()]


def _with_camera(clip: FoundClip) -> WorldClip:
    """Return a clip with its camera and prompt. Raises DataError for a camera that is not the clip's."""
    (file, *others), facts = _cameras(clip), clip.facts
    if others:
        raise DataError(f"{clip.name} has two cameras, {file.name} and {others[0].name}: remove one.")
    try:
        camera, _ = read_cameras(file, (facts.width, facts.height))
    except SettingsError as error:
        raise DataError(str(error)) from None
    if len(camera.poses) != facts.frames:
        raise DataError(
            f"{file} has {len(camera.poses)} poses, and {clip.name} {facts.frames} frames: write one for "
            "each."
        )
    if camera.width * facts.height != camera.height * facts.width:
        raise DataError(
            f"{file} is of images of {camera.width}x{camera.height} px, and {clip.name} has "
            f"{facts.width}x{facts.height}: use one shape."
        )
    camera = camera.covering(facts.width, facts.height)
    if float((camera.intrinsics - camera.intrinsics[:1]).abs().max()) > _LENS:
        raise DataError(f"{file} has a lens that changes: clips are measured with one lens each.")
    text = _beside(clip, PROMPT)
    prompt = read_text(text).partition("\n")[0].strip() if text.is_file() else ""
    return WorldClip(clip, camera, prompt)
