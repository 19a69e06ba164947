"""Fine-tune any SANA model on your own captioned images, all of its transformer.

Rates, warm-up, clipping and optimiser of the published sizes are those of SANA-1.5's training; batch size and
length are ours, for one GPU of 40 GB or more. Smaller models, as pocket, have settings for a CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.train.config import TrainConfig
from sanakit.train.run import Run
from sanakit.train.runs.finetune import Aim, finetune_run
from sanakit.weights import load_configs

StrPath = str | os.PathLike[str]

WORKERS = 2  # that read images
TRAIN_TEXT = False  # pocket's text encoder, which knows few words, may gain by True; Gemma 2 is too large
PUBLISHED_WIDTH = 1024  # of the transformer: from here on it is one of the published sizes

SMALL = TrainConfig(
    steps=1000,
    batch_size=8,
    micro_batch=16,
    learning_rate=2e-4,
    warmup_steps=50,
    weight_decay=0.0,
    ema_decay=0.99,
    log_every=10,
    evaluate_every=250,
    sheet_every=250,
    checkpoint_every=100,
)
PUBLISHED = TrainConfig(
    steps=20_000,
    batch_size=16,
    micro_batch=4,
    learning_rate=2e-5,
    optimizer="came8bit",
    warmup_steps=2000,
    weight_decay=0.0,
    clip_norm=0.1,
    ema_decay=0.999,
    bf16=True,
    recompute=True,
    seed=1,
    log_every=10,
    evaluate_every=500,
    sheet_every=500,
    checkpoint_every=500,
)


def finetune(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
    batch_size: int | None = None,
) -> Run:
    """Train `source` on the images of `data`, at its own resolution or another one."""
    config = settings_for(source, steps, batch_size)
    return finetune_run(
        data, output, source, config, Aim(resolution=resolution, train_text=TRAIN_TEXT), workers=WORKERS
    )


def settings_for(source: StrPath, steps: int | None = None, batch_size: int | None = None) -> TrainConfig:
    """Return the settings that suit a model's size; the warm-up takes a tenth of the steps at most."""
    config = PUBLISHED if load_configs(source)[0].width >= PUBLISHED_WIDTH else SMALL
    return config.requested(steps, batch_size)
