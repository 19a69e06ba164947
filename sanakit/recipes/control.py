"""Train a ControlNet for any SANA model on your own captioned images; the model itself stays as it is.

Rate, optimiser, clipping, warm-up and batch of the published sizes are those of the published configuration,
whose trainer was never published; the length is ours. Smaller models, as pocket, have settings for a CPU.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.images.hints import HintKind
from sanakit.recipes import finetune
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run
from sanakit.train.runs.control import control_run
from sanakit.weights import load_configs

StrPath = str | os.PathLike[str]

# That the images are turned into: lines, edges, soft-edges, blocks or mask.
HINT: HintKind = "lines"

SMALL = replace(finetune.SMALL, steps=2000, learning_rate=3e-4)
PUBLISHED = replace(finetune.PUBLISHED, learning_rate=1e-4, optimizer="came", warmup_steps=30)


def control(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
) -> Run:
    """A ControlNet for `source` that follows hints of one kind, made of the images of `data`."""
    published = load_configs(source)[0].width >= finetune.PUBLISHED_WIDTH
    config: TrainConfig = PUBLISHED if published else SMALL
    config = config.requested(steps, batch_size, smoke=smoke)
    return control_run(
        data, output, source, config, HINT, resolution=resolution, workers=0 if smoke else finetune.WORKERS
    )
