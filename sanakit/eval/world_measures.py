"""A world model put to the test: paths in, figures out on whether it obeys them (`metrics/obedience.py`).

    draw = drawer(world, image, "an old harbour", seed=0, fov=65)
    signs = key_signs(draw)                              # eight keys, each alone
    found = path_likeness(draw, path, other, truth)      # beside three controls
    dB, pairs = revisit(draw, action_poses("d-24"))

All clips of one test have the same noise, so that the path alone tells them apart.
Shapes: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.eval.metrics.obedience import (
    SIGNS,
    ImageMotion,
    image_motion,
    likeness_to_truth,
    revisit_psnr,
)
from sanakit.pipelines.video.result import clips_of
from sanakit.pipelines.world.request import WorldDrawSettings
from sanakit.pipelines.world.world import World

KEY_FRAMES = 24  # that each key is held

Draw = Callable[[str | Tensor, bool], np.ndarray]
"""A path, keys or poses T 4 4, and whether the model sees its cameras, to frames T H W 3, uint8."""


@dataclass(frozen=True, slots=True)
class KeySign:
    """Where a held key took the image, and whether that is where it should go."""

    motion: ImageMotion
    obeyed: bool


def drawer(world: World, image: Image.Image, prompt: str = "", **settings: Unpack[WorldDrawSettings]) -> Draw:
    """Return what draws clips of one image for these measures. settings: of `World.__call__`, with a seed.

    Raises SettingsError without a seed, or with a path; what it returns raises as `World.__call__` does.
    """
    if "seed" not in settings or "path" in settings:
        raise SettingsError("Clips are compared of one noise along several paths: pass a seed, and no path.")

    def draw(path: str | Tensor, steered: bool) -> np.ndarray:
        called: WorldDrawSettings = {**settings, "path": path, "output": "clip"}
        *_, last = world.draw(world.checked(image, prompt, **called), steered=steered)
        return clips_of(last).frames

    return draw


def key_signs(draw: Draw, frames: int = KEY_FRAMES) -> dict[str, KeySign]:
    """Return where each of the eight keys took the image from its first frame to its last.

    frames: that it is held.
    """
    found: dict[str, KeySign] = {}
    for key in SIGNS:
        clip = draw(f"{key}-{frames}", True)
        motion = image_motion(clip[0], clip[-1])
        found[key] = KeySign(motion, motion.obeys(key))
    return found


def path_likeness(
    draw: Draw, path: str | Tensor, other: str | Tensor, truth: np.ndarray, *, unsteered: bool = True
) -> dict[str, float]:
    """Return the mean PSNR in dB to true frames along a path: "own", and of the controls.

    other: another path of as many frames, "other-path". truth: T H W 3, what the path should show.
    unsteered: whether to draw "no-camera", too. The model obeys as far as its own figure is above the others.
    """
    controls = {"other-path": draw(other, True)}
    controls |= {"no-camera": draw(path, False)} if unsteered else {}
    found = likeness_to_truth(draw(path, True), truth, controls)
    return {name: fmean(each) for name, each in found.items()}


def revisit(draw: Draw, poses: Tensor) -> tuple[float, int]:
    """Return the PSNR in dB of the way back to the way there, and the number of frames compared.

    poses: of the way there, T 4 4, of which as many come back as make up whole latents; see `revisit_psnr`.
    """
    way = torch.cat([poses, poses.flip(0)[1:]])
    frames = draw(way, True)
    return revisit_psnr(frames, way[: len(frames)])
