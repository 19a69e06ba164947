"""A clip that is easily made, with shapes that move, and how near two clips are."""

from __future__ import annotations

import math

import numpy as np


def moving(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """T H W 3: a disc that moves over a gradient; each frame has its own grey corner."""
    y, x = np.mgrid[:height, :width]
    clip = np.empty((frames, height, width, 3), np.uint8)
    for number in range(frames):
        clip[number] = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 128)], -1)
        clip[number][(x - 12 - 2 * number % width) ** 2 + (y - height // 2) ** 2 < 80] = (230, 160, 60)
        clip[number, :8, :8] = number * 9 % 256
    return clip


def few_colours(frames: int, height: int = 24, width: int = 32) -> np.ndarray:
    """T H W 3 of at most 256 colours a frame."""
    levels = np.arange(height * width).reshape(height, width) // 4
    return np.stack(
        [np.stack([levels % 7 * 30, levels % 32 * 8, levels * 0 + n], -1) for n in range(frames)]
    ).astype(np.uint8)


def flat(*colours: tuple[int, int, int], side: int = 16) -> np.ndarray:
    """T H W 3: frames of one colour each."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), side, side, 3)).copy()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf
