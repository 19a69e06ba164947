"""Prune a model: half as many blocks, those that matter most, and a short recovery (SANA-1.5)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.recipes.pocket import DRAWINGS, MIXTURE
from sanakit.train.further import further_run, prepare
from sanakit.train.pocket import Run
from sanakit.train.pruning import block_importance, calibration
from sanakit.train.pruning import prune as prune_transformer

KEPT_SHARE = 0.5  # of the blocks; SANA-1.5: 2/3, 1/2 and 1/3 of 60

# What is left knows nearly all of it: few steps, small ones, an average over few of them.
RECOVERY = replace(
    DRAWINGS,
    steps=300,
    learning_rate=5e-4,
    muon_learning_rate=1e-3,
    warmup_steps=20,
    ema_decay=0.98,
    evaluate_every=50,
    sheet_every=100,
    checkpoint_every=100,
)


def prune(
    data: Path, output: Path, steps: int | None = None, *, source: str | os.PathLike[str] = "pocket"
) -> Run:
    """Prune `source`, pocket or a folder that its recipe wrote, and train what is left."""
    prepared = prepare(data, source, MIXTURE)
    return further_run(
        prepared,
        RECOVERY.lasting(steps),
        lambda objective: prune_transformer(
            objective.transformer,
            block_importance(objective.transformer, calibration(objective)),
            max(1, round(KEPT_SHARE * objective.transformer.config.depth)),
        ),
        name=f"{prepared.settings.name}-pruned",
    )
