"""Distil pocket into a model that draws in one to four steps (SANA-Sprint), on the data set's own samples."""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.pocket.recipes.pocket import SCENES
from sanakit.pocket.train.sprint import pocket_sprint_run
from sanakit.train.config import TrainConfig
from sanakit.train.distill.ladd import Adversarial, judged_blocks
from sanakit.train.distill.scm import Consistency, around
from sanakit.train.run import Run
from sanakit.train.runs.sprint import SprintAim
from sanakit.weights import load_configs, load_settings

SPRINT = TrainConfig(
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
WARMUP = 200  # updates in which sCM's second part comes in; published: 2,000


def sprint(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    smoke: bool = False,
) -> Run:
    """A student of `source`, pocket or a folder that its recipe wrote."""
    config = SPRINT.requested(steps, smoke=smoke)
    aim = SprintAim(
        consistency=Consistency(guidance=around(load_settings(source).guidance), warmup=WARMUP),
        adversarial=Adversarial(blocks=judged_blocks(load_configs(source)[0].depth)),
    )
    return pocket_sprint_run(data, output, source, config, aim, scenes=32 if smoke else SCENES)
