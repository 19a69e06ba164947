"""The work of a reading process: load the samples of a part, each with pixels and a caption.

Everything it needs to know stands in the task, so that any process gives the same result at any time.
Shapes: B the samples of a part, H W its bucket's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.order import EMPTY
from sanakit.data.read.captions import draw_caption
from sanakit.data.read.decode import decode
from sanakit.data.read.source import Source
from sanakit.errors import DataError
from sanakit.seeds import uniform

GREY = 128  # of empty places


@dataclass(frozen=True, slots=True)
class Task:
    """A task for a worker. It is complete, so the worker needs no order of its own."""

    step: int
    size: tuple[int, int]
    images: np.ndarray


@dataclass(slots=True)
class PreparedPart:
    """A worker's result: images uint8, B 3 H W."""

    images: Tensor
    captions: list[str]
    weights: Tensor
    keys: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    uncaptioned: int = 0


class Preparer:
    """Runs tasks in any process; the result depends only on the task and these settings."""

    def __init__(self, source: Source, seed: int, temperature: float, threshold: float) -> None:
        self.source, self.seed = source, seed
        self.temperature, self.threshold = temperature, threshold

    def __getitem__(self, task: Task) -> PreparedPart:
        count = len(task.images)
        height, width = task.size
        prepared = PreparedPart(
            torch.empty((count, 3, height, width), dtype=torch.uint8),
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
                prepared.images[place] = decode(self.source.read(number), height, width)
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
                prepared.uncaptioned += 1
        return prepared
