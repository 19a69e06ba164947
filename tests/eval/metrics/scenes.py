"""Clips of which the motion is known: T H W 3, uint8."""

from __future__ import annotations

import numpy as np


def still(frames: int = 7, height: int = 40, width: int = 56) -> np.ndarray:
    """One image of random levels, again and again."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return np.broadcast_to(image, (frames, height, width, 3)).copy()


def square(
    frames: int = 7, speed: int = 2, *, side: int = 16, height: int = 40, width: int = 64
) -> np.ndarray:
    """A textured square on white that moves to the right by `speed` pixels a frame, from column 8 on."""
    texture = np.random.default_rng(1).integers(0, 200, (side, side, 3), np.uint8)
    clip = np.full((frames, height, width, 3), 255, np.uint8)
    for t in range(frames):
        clip[t, 8 : 8 + side, 8 + speed * t :][:, :side] = texture
    return clip


def with_noise(clip: np.ndarray, size: int, seed: int = 2) -> np.ndarray:
    """Add levels from -size to size, each as likely, to every value of a clip in the middle of the range."""
    noise = np.random.default_rng(seed).integers(-size, size + 1, clip.shape)
    return (clip.astype(np.int64) + noise).astype(np.uint8)


def grey(frames: int = 7, height: int = 40, width: int = 56, level: int = 128) -> np.ndarray:
    """Frames of one level."""
    return np.full((frames, height, width, 3), level, np.uint8)


def dark_and_light(frames: int = 7, dark: int = 100, light: int = 151) -> np.ndarray:
    """Frames of two levels that alternate."""
    clip = grey(frames, level=dark)
    clip[1::2] = light
    return clip
