"""Files of clips whose frames tell their number by their grey."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from sanakit.clips.clip import VideoClip
from tests.clips.moving import flat

LEVEL = 8  # of grey, from one frame to the next


def counted(path: Path, frames: int, rate: int = 16, side: int = 32, caption: str = "") -> Path:
    """Write a clip, and its caption beside it."""
    levels = flat(*((LEVEL * n,) * 3 for n in range(frames)), side=side)
    path.parent.mkdir(parents=True, exist_ok=True)
    VideoClip(frames=levels, rate=Fraction(rate)).save(path)
    if caption:
        path.with_suffix(".txt").write_text(caption + "\n")
    return path


def numbers_of(pixels: Tensor) -> list[int]:
    """Return the numbers of the frames of 3 T H W, in levels or in [-1, 1]."""
    levels = pixels.float() if not pixels.is_floating_point() else (pixels + 1) * 127.5
    middle = levels.mean(dim=(0, 2, 3))
    return np.round(middle.numpy() / LEVEL).astype(int).tolist()
