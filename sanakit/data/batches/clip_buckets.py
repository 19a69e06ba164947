"""Buckets of clips: every clip goes to the training size of its ratio, and to the longest length that it has.

A clip is taken at one rate: for each frame the one nearest in time stands. As published, short clips are left
out; on request a short clip is shown again from its beginning.
Shapes: N clips of the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np

from sanakit.clips.counts import as_rate, resampled_count
from sanakit.data.batches.buckets import ENLARGE, Buckets, by_ratio
from sanakit.data.read.index import Index
from sanakit.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSampling:
    """How samples are taken from clips.

    sizes: (height, width) in pixels, their ratios ascending.   lengths: frames, ascending.   rate: frames a
    second.   repeat: whether clips shorter than the shortest length are shown again; else they are left out.
    Raises SettingsError for none of them, and for what is below 1.
    """

    sizes: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    rate: Fraction
    repeat: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or not self.lengths:
            raise SettingsError("Clips need a size and a length to train at: give one of each at least.")
        if min(map(min, self.sizes)) < 1 or min(self.lengths) < 1:
            raise SettingsError("The sizes and lengths of clips to train at must be 1 or more.")
        ordered = sorted(set(self.sizes), key=lambda size: size[0] / size[1])
        object.__setattr__(self, "sizes", tuple((int(height), int(width)) for height, width in ordered))
        object.__setattr__(self, "lengths", tuple(sorted(set(self.lengths))))
        object.__setattr__(self, "rate", as_rate(self.rate))

    @property
    def resolution(self) -> int:
        """The side in pixels of a square of the largest size's area."""
        return isqrt(max(height * width for height, width in self.sizes))


def fill_clip_buckets(index: Index, sampling: ClipSampling, enlarge: float = ENLARGE) -> Buckets:
    """Put the sound clips of an index into the buckets of their sizes and lengths.

    enlarge: as for `fill_buckets`. Raises SettingsError.
    """
    assert index.frames is not None, "an index of clips"
    assert index.seconds is not None, "an index of clips"
    which, left_out = by_ratio(index, sampling.sizes, enlarge)
    lengths = np.full(len(index), -1)
    notes = {number: note for number, note in index.notes.items() if which[number] >= 0}
    for number in np.flatnonzero(which >= 0).tolist():
        seconds = Fraction(*index.seconds[number].tolist())
        count = resampled_count(seconds, sampling.rate)
        fitting = [length for length in sampling.lengths if length <= count]
        told = []
        if fitting:
            lengths[number] = fitting[-1]
        elif sampling.repeat:
            lengths[number] = sampling.lengths[0]
            told.append(f"It is too short for {sampling.lengths[0]} frames, and is shown more than once.")
        else:
            left_out[number] = (
                f"{count} frames at {sampling.rate} a second are too few: the shortest length is "
                f"{sampling.lengths[0]}"
            )
            continue
        if index.frames[number] < seconds * sampling.rate:
            told.append(f"It has fewer than {sampling.rate} frames a second: some are shown more than once.")
        if told:
            notes[number] = " ".join([*filter(None, [notes.get(number)]), *told])
    shapes = [(length, *size) for size in sampling.sizes for length in sampling.lengths]
    filled = [
        (shape, np.flatnonzero((which == sampling.sizes.index(shape[1:])) & (lengths == shape[0])))
        for shape in shapes
    ]
    filled = [(shape, numbers) for shape, numbers in filled if len(numbers)]
    return Buckets(
        tuple(shape for shape, _ in filled),
        tuple(numbers for _, numbers in filled),
        dict(sorted(left_out.items())),
        {number: note for number, note in sorted(notes.items()) if number not in left_out},
    )
