"""Prune a model: half as many blocks, those that matter most, taught by the whole one (SANA-1.5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sanakit.pocket.recipes.pocket import DRAWINGS
from sanakit.pocket.train.further import further_run, prepare
from sanakit.pocket.train.latents import Mixture
from sanakit.train.objectives.velocity import VelocityObjective
from sanakit.train.run import Run
from sanakit.train.surgery.pruning import block_importance, calibration, teacher_of
from sanakit.train.surgery.pruning import prune as prune_transformer

KEPT_SHARE = 0.5  # of the blocks; SANA-1.5: 2/3, 1/2 and 1/3 of 60

# Few steps, an average over few of them, high rates: of half, once and twice 1e-3 and 2e-3 the highest led
# after 40 steps (LOG.md).
RECOVERY = replace(
    DRAWINGS,
    steps=1000,
    learning_rate=1.5e-3,
    muon_learning_rate=3e-3,
    warmup_steps=20,
    ema_decay=0.98,
    evaluate_every=50,
    sheet_every=100,
    checkpoint_every=100,
)
# Fewer scenes than to learn them from nothing: encoding takes time.
MIXTURE = Mixture(common_share=0.86, scenes=4000, scene_share=0.58)


def prune(
    data: Path, output: Path, steps: int | None = None, *, source: str | os.PathLike[str] = "pocket"
) -> Run:
    """Prune `source`, pocket or a folder that its recipe wrote, and train what is left."""
    prepared = prepare(data, source, MIXTURE)
    return further_run(prepared, RECOVERY.lasting(steps), halved, name=f"{prepared.settings.name}-pruned")


def halved(objective: VelocityObjective) -> VelocityObjective:
    """Keep the more important half of the objective's transformer, with the whole as its teacher."""
    importance = block_importance(objective.transformer, calibration(objective))
    return taught(objective, importance, max(1, round(KEPT_SHARE * len(importance))))


def taught(
    objective: VelocityObjective, importance: Tensor | Sequence[float], depth: int
) -> VelocityObjective:
    """Keep the `depth` most important blocks of the objective's transformer, with the whole as teacher."""
    whole = objective.transformer
    left = prune_transformer(whole, importance, depth)
    return objective.with_transformer(left, teacher_of(whole, importance, depth))
