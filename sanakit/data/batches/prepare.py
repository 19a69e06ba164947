"""The work of a reading process: load the samples of a part, each with pixels and a caption.

Everything it needs to know stands in the task, so that any process gives the same result at any time.
Shapes: B the samples of a part, H W its bucket's size; of clips T H W.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.order import EMPTY
from sanakit.data.read.captions import draw_caption
from sanakit.data.read.decode import decode, decode_clip
from sanakit.data.read.source import Source, clip_defect
from sanakit.errors import DataError, SettingsError
from sanakit.seeds import uniform

GREY = 128  # of empty places


@dataclass(frozen=True, slots=True)
class Task:
    """A task for a worker. It is complete, so the worker needs no order of its own."""

    step: int
    size: tuple[int, ...]
    images: np.ndarray


@dataclass(slots=True)
class PreparedPart:
    """A worker's result: images uint8, B 3 H W; of clips B 3 T H W."""

    images: Tensor
    captions: list[str]
    weights: Tensor
    keys: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    uncaptioned: list[str] = field(default_factory=list)  # keys


def pixels_of(
    source: Source, number: int, size: tuple[int, ...], rate: Fraction | None, u: float = 0
) -> Tensor:
    """Return a sample's pixels, uint8: 3 H W of an image, 3 T H W of a clip. Raises DataError, OSError.

    size: height and width, before them the frames of a clip. rate, u: of clips, as for `decode_clip`.
    """
    if rate is None:
        height, width = size
        return decode(source.read(number), height, width)
    try:
        with source.clip(number) as clip:
            return decode_clip(clip, size, rate, u)
    except SettingsError as error:
        raise DataError(clip_defect(error, source.key(number))) from None


class Preparer:
    """Runs tasks in any process; the result depends only on the task and these settings.

    rate: frames a second of clips; None: the source's samples are images.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        temperature: float,
        threshold: float,
        rate: Fraction | None = None,
    ) -> None:
        self.source, self.seed, self.rate = source, seed, rate
        self.temperature, self.threshold = temperature, threshold

    def __getitem__(self, task: Task) -> PreparedPart:
        count = len(task.images)
        prepared = PreparedPart(
            torch.empty((count, 3, *task.size), dtype=torch.uint8),
            [""] * count,
            torch.zeros(count, dtype=torch.float32),
            [""] * count,
        )
        for place, number in enumerate(task.images.tolist()):
            if number == EMPTY:
                prepared.images[place] = GREY
                continue
            key = prepared.keys[place] = self.source.key(number)
            try:
                captions = self.source.captions(number)
                place_in_time = uniform(self.seed, task.step, number, 1)  # not the one of its caption
                prepared.images[place] = pixels_of(self.source, number, task.size, self.rate, place_in_time)
            except (DataError, OSError) as error:
                prepared.images[place] = GREY
                prepared.failed[key] = str(error)
                continue
            prepared.weights[place] = 1
            if captions:
                u = uniform(self.seed, task.step, number)
                chosen = draw_caption(captions, u, temperature=self.temperature, threshold=self.threshold)
                prepared.captions[place] = chosen.text
            else:
                prepared.uncaptioned.append(key)
        return prepared
