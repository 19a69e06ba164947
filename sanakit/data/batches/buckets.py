"""Aspect buckets: every image goes to the training size whose ratio is nearest to its own.

The sizes are those that the published models draw (`aspect_bins`), here for any training resolution. The
nearest ratio is found in log space, where 1:2 is as far from the square as 2:1.
Clips are put into buckets of a size and a length, see `clip_buckets`.
Shapes: N images of the source, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sanakit.data.read.index import Index
from sanakit.errors import SettingsError
from sanakit.images.image import aspect_bins

ENLARGE = 1.25  # times; an image that would have to grow by more would teach blur
KEPT = (
    0.5  # of an image's area has to be left after the cut; a narrower one shows something else than it says
)


@dataclass(frozen=True, slots=True)
class Buckets:
    """The images or clips to train on, grouped by training size.

    sizes: K times (height, width) in pixels; of clips (frames, height, width).   members: K arrays of image
    numbers, ascending.   left_out: number of the image -> why it is in none, though it is sound.
    notes: number of an image in a bucket -> what it loses there.
    """

    sizes: tuple[tuple[int, ...], ...]
    members: tuple[np.ndarray, ...]
    left_out: dict[int, str]
    notes: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the images that are in a bucket."""
        return sum(len(numbers) for numbers in self.members)


def training_sizes(resolution: int, *, square: bool = False, multiple: int = 32) -> list[tuple[int, int]]:
    """Return the sizes (height, width) in pixels to train on, flattest first.

    resolution: side in pixels of the square, whose area all of them have about.   square: that one only, as
    it is for a resolution that is not a multiple of 16, whose sixteenths would not be whole.
    multiple: pixels, what sides have to be multiples of: the autoencoder's compression.
    Raises SettingsError for a resolution that is not a multiple of that.
    >>> training_sizes(256)[0], len(training_sizes(256)), len(training_sizes(1024))
    ((128, 512), 10, 33)
    """
    if multiple < 1 or resolution < multiple or resolution % multiple:
        below = max(multiple, resolution // max(multiple, 1) * multiple)
        raise SettingsError(
            f"The resolution {resolution} is not a multiple of {multiple} px: train at {below} or "
            f"{below + multiple}."
        )
    sizes = [] if square or resolution % 16 else aspect_bins(resolution)
    return [size for size in sizes if not any(side % multiple for side in size)] or [(resolution, resolution)]


def fill_buckets(
    index: Index, resolution: int, *, square: bool = False, multiple: int = 32, enlarge: float = ENLARGE
) -> Buckets:
    """Put the sound images of an index into the buckets of a training resolution.

    enlarge: times, >= 1; an image that has to grow by more to cover its size is left out, as is one of which
    less than half would be left after the cut. The rest as for `training_sizes`. Raises SettingsError.
    """
    sizes = training_sizes(resolution, square=square, multiple=multiple)
    bucket, left_out = by_ratio(index, sizes, enlarge)
    filled = [(size, np.flatnonzero(bucket == number)) for number, size in enumerate(sizes)]
    filled = [(size, numbers) for size, numbers in filled if len(numbers)]
    return Buckets(tuple(size for size, _ in filled), tuple(numbers for _, numbers in filled), left_out)


def by_ratio(
    index: Index, sizes: Sequence[tuple[int, int]], enlarge: float = ENLARGE
) -> tuple[np.ndarray, dict[int, str]]:
    """Return the number of each image's size (N, -1 for none), and why sound images are left out.

    sizes: height and width in pixels, with their ratios ascending. Raises SettingsError.
    """
    if not enlarge >= 1:
        raise SettingsError(f"enlarge = {enlarge}: it must be 1 (never enlarge) or the largest factor.")
    heights, widths = index.heights.astype(np.float64), index.widths.astype(np.float64)
    sound = index.heights > 0
    ratios = np.log(np.divide(heights, widths, where=sound, out=np.ones_like(heights)))
    # between two of the ascending ratios, the middle decides
    known = np.log([height / width for height, width in sizes])
    bucket = np.searchsorted((known[1:] + known[:-1]) / 2, ratios)

    chosen = np.array(sizes, dtype=np.float64)[bucket]  # N 2
    grown = np.maximum(*(chosen / np.maximum(np.stack([heights, widths], axis=1), 1)).T)
    kept = np.exp(-np.abs(ratios - known[bucket]))
    too_small, too_narrow = sound & (grown > enlarge), sound & (kept < KEPT)
    left_out = {}
    for number in np.flatnonzero(too_small | too_narrow).tolist():
        size = f"{index.widths[number]}x{index.heights[number]} px"
        height, width = sizes[bucket[number]]
        left_out[number] = (
            f"{size} is too narrow: less than half of it would remain at {width}x{height}"
            if too_narrow[number]
            else f"{size} is too small for {width}x{height}"
        )
    return np.where(sound & ~too_small & ~too_narrow, bucket, -1), left_out
