"""Distil any SANA model into one that draws in one to four steps (SANA-Sprint, arXiv:2503.09641).

Rate, optimiser, clipping, warm-up, batch of a GPU and seed of the published sizes are the published ones, as
are all constants of the losses. Ours are the length for one GPU and the moving average: the published trainer
makes one and never updates it. Smaller models, as pocket, have settings for a CPU.
A source that takes times 1000 t or has no norm of queries and keys is made a teacher first: `teacher`, plain
fine-tuning of the changed model, of about 5,000 steps as published.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.recipes import finetune
from sanakit.train.config import TrainConfig
from sanakit.train.distill.ladd import Adversarial, judged_blocks
from sanakit.train.distill.scm import Consistency, around
from sanakit.train.run import Run
from sanakit.train.runs.finetune import Aim, finetune_run
from sanakit.train.runs.sprint import SprintAim, sprint_run
from sanakit.weights import load_configs, load_settings

StrPath = str | os.PathLike[str]

PUBLISHED = TrainConfig(
    steps=20_000,
    batch_size=16,
    micro_batch=8,
    learning_rate=2e-6,
    optimizer="came",
    warmup_steps=5000,
    decay_fraction=0.0,
    weight_decay=0.0,
    clip_norm=0.1,
    ema_decay=0.999,
    bf16=True,
    recompute=True,
    seed=42,
    log_every=10,
    evaluate_every=500,
    sheet_every=500,
    checkpoint_every=500,
)
SMALL = TrainConfig(
    steps=4000,
    batch_size=32,
    micro_batch=32,
    learning_rate=2e-4,
    warmup_steps=50,
    weight_decay=0.0,
    clip_norm=1.0,
    ema_decay=0.99,
    log_every=10,
    evaluate_every=250,
    sheet_every=250,
    checkpoint_every=100,
)
TEACHER_STEPS = 5000
SMALL_WARMUP = 200  # updates in which sCM's second part comes in; published: 2,000


def sprint(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
) -> Run:
    """A student of `source` that draws in few steps, made on the images of `data`."""
    config, aim = settings_for(source, steps, smoke=smoke)
    if batch_size is not None:
        config = replace(config, batch_size=batch_size)
    return sprint_run(
        data,
        output,
        source,
        config,
        replace(aim, resolution=resolution),
        workers=0 if smoke else finetune.WORKERS,
    )


def teacher(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
    batch_size: int | None = None,
) -> Run:
    """A teacher made of `source`, which `sprint` can distil."""
    config = finetune.settings_for(source, TEACHER_STEPS if steps is None else steps, batch_size)
    name = f"{load_settings(source).name}-teacher"
    aim = Aim(resolution=resolution, teacher=True, name=name)
    return finetune_run(data, output, source, config, aim, workers=finetune.WORKERS)


def settings_for(
    source: StrPath, steps: int | None = None, *, smoke: bool = False
) -> tuple[TrainConfig, SprintAim]:
    """Return the settings that suit a model's size; the warm-up takes a tenth of the steps at most."""
    sizes, _ = load_configs(source)
    blocks = judged_blocks(sizes.depth)
    if sizes.width >= finetune.PUBLISHED_WIDTH:
        config, aim = PUBLISHED, SprintAim(adversarial=Adversarial(blocks=blocks))
    else:
        usual = load_settings(source).guidance
        consistency = Consistency(guidance=around(usual), warmup=SMALL_WARMUP)
        config, aim = SMALL, SprintAim(consistency=consistency, adversarial=Adversarial(blocks=blocks))
    return config.requested(steps, smoke=smoke), aim
