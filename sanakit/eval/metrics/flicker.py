"""Flicker of a clip: how much its frames change where they should not.

Temporal flicker, of clips that show something still (VBench, arXiv:2311.17982); 1 is none:

    1 - 1/(T - 1) sum_t mean |x_{t+1} - x_t| / 255

Flicker on still pixels, of any clip: the same mean, in percent of the range, over the quarter of the blocks
of 8 x 8 pixels that change least. Objects that move over less than three quarters of the frame leave it.
Error of the differences, against the real clip r; 0: the clip moves as the real one does, 1: as wrong as a
clip that does not move:

    sum |(x_{t+1} - x_t) - (r_{t+1} - r_t)| / sum |r_{t+1} - r_t|

Shapes: T frames, H W pixels; uint8 in three channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from sanakit.errors import SettingsError

RANGE = 255  # levels between black and white
BLOCK = 8  # pixels a side
STILL = 4  # one block in so many counts as still


def changes(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the difference of each frame to the one before it: T - 1 of H W 3, int16.

    frames: T H W 3, uint8. Raises SettingsError for fewer than two.
    """
    if len(frames) < 2:
        raise SettingsError(f"Neighbouring frames are compared: a clip needs two, not {len(frames)}.")
    for before, after in pairwise(frames):
        yield after.astype(np.int16) - before


def temporal_flicker(frames: np.ndarray) -> float:
    """Return 1 less the mean difference of neighbouring frames, in [0, 1]; 1 if all frames are equal.

    frames: T H W 3, uint8. Motion lowers it as flicker does: ask it of clips that should be still.
    """
    return 1 - float(np.mean([np.abs(change).mean() for change in changes(frames)])) / RANGE


def still_flicker(frames: np.ndarray) -> float:
    """Return the mean difference of neighbours where a clip is stillest, in percent of the range.

    frames: T H W 3, uint8; the quarter of its blocks that change least. Blocks at the right and bottom edges
    may be smaller; every pixel counts alike.
    """
    total = np.zeros(frames.shape[1:3], np.int64)
    for change in changes(frames):
        total += np.abs(change).sum(-1, dtype=np.int64)
    sums, pixels = (_blocks(values).ravel() for values in (total, np.ones_like(total)))
    still = np.argsort(sums / pixels, kind="stable")[: -(-len(sums) // STILL)]
    compared = pixels[still].sum() * 3 * (len(frames) - 1)
    return 100 * float(sums[still].sum() / compared) / RANGE


def difference_error(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the error of a clip's frame differences over the differences of the real clip, 0 or more.

    frames, reference: T H W 3, uint8. Raises SettingsError for different shapes, and if the reference does
    not move.
    """
    if frames.shape != reference.shape:
        raise SettingsError(
            f"A clip of {_shape(frames)} is compared with one of {_shape(reference)}: they must be equal."
        )
    error, real = 0, 0
    for change, true in zip(changes(frames), changes(reference), strict=True):
        error += int(np.abs(change - true).sum(dtype=np.int64))
        real += int(np.abs(true).sum(dtype=np.int64))
    if not real:
        raise SettingsError("Its reference does not move: an error relative to that is not defined.")
    return error / real


def _blocks(values: np.ndarray) -> np.ndarray:
    """Sum H W values over blocks; the last ones in each direction may be smaller."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], BLOCK), axis=0)
    return np.add.reduceat(rows, np.arange(0, values.shape[1], BLOCK), axis=1)


def _shape(frames: np.ndarray) -> str:
    count, height, width = frames.shape[:3]
    return f"{count} frames of {width}x{height}"
