"""`pocket-names`: a model like pocket whose text encoder knows things by their names in other languages."""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.pocket.train.foreign_run import names_run
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run

NAMES = TrainConfig(
    steps=300,
    batch_size=96,
    learning_rate=1.5e-3,
    optimizer="muon",
    muon_learning_rate=2e-3,
    betas=(0.9, 0.98),
    warmup_steps=30,
    decay_fraction=0.5,
    weight_decay=0.0,
    ema_decay=0.98,
    bf16=True,
    log_every=10,
    evaluate_every=75,
    checkpoint_every=50,
)
KEPT = 0.3  # share of English captions


def names(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    smoke: bool = False,
) -> Run:
    """Train the text encoder of `source`, pocket or a model of its recipe; all else stays as it is."""
    return names_run(data, output, source, NAMES.lasting(steps, smoke=smoke), kept=KEPT)
