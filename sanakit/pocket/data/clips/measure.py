"""How much moves in a clip, measured on its frames. Shapes: T frames, H W pixels."""

from __future__ import annotations

import numpy as np

from sanakit.pocket.words.motion import Motion

PAPER = 250  # a pixel is part of the outline where a channel is darker


def measure_motion(frames: np.ndarray) -> Motion:
    """Measure a loop on white, T H W 3 uint8; the last frame's neighbour is the first one."""
    levels = frames.astype(np.float32)
    outline = (frames < PAPER).any(axis=3)  # T H W
    height, width = frames.shape[1:3]
    area = outline.sum((1, 2)).astype(np.float64)
    seen = np.maximum(area, 1)
    y = (outline.sum(2) * np.arange(height)).sum(1) / seen
    x = (outline.sum(1) * np.arange(width)).sum(1) / seen
    shown = area > 0  # an empty frame has no middle
    return Motion(
        change=_rounded(100 * np.abs(levels - np.roll(levels, 1, axis=0)).mean() / 255),
        bob=_rounded(100 * np.ptp(y[shown]) / height if shown.any() else 0.0),
        sway=_rounded(100 * np.ptp(x[shown]) / width if shown.any() else 0.0),
        swell=_rounded(100 * np.ptp(area) / max(area.mean(), 1)),
    )


def _rounded(value: float) -> float:
    return round(float(value), 2)
