"""Grow a model: twice as many blocks, which start as the identity, trained further (SANA-1.5)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.pocket.recipes.pocket import DRAWINGS
from sanakit.pocket.train.further import further_run, prepare
from sanakit.pocket.train.latents import Mixture
from sanakit.train.run import Run
from sanakit.train.surgery.growth import grow as grow_transformer

TIMES_AS_DEEP = 2  # SANA-1.5: 3, from 20 blocks to 60
DROPPED_SHARE = 0.1  # of the old blocks, at the end; SANA-1.5: 2 of 20

MIXTURE = Mixture(common_share=0.85)
TRAINING = replace(DRAWINGS, steps=1500, warmup_steps=100)


def grow(
    data: Path, output: Path, steps: int | None = None, *, source: str | os.PathLike[str] = "pocket"
) -> Run:
    """Grow `source`, pocket or a folder that its recipe wrote, and train all of it."""
    prepared = prepare(data, source, MIXTURE)
    return further_run(
        prepared,
        TRAINING.lasting(steps),
        lambda objective: objective.with_transformer(
            grow_transformer(
                objective.transformer,
                TIMES_AS_DEEP * objective.transformer.config.depth,
                drop_last=round(DROPPED_SHARE * objective.transformer.config.depth),
            )
        ),
        name=f"{prepared.settings.name}-grown",
    )
