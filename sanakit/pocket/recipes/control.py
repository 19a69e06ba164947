"""`pocket-control`: a ControlNet for pocket that follows lines, the embedded `pocket-lines`.

Lines are five pixels wide: pocket's autoencoder, 32x in space, loses edges of one pixel.
"""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.pocket.train.control import control_run
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run

CONTROL = TrainConfig(
    steps=3000,
    batch_size=32,
    learning_rate=1e-3,
    optimizer="muon",
    muon_learning_rate=2e-3,
    warmup_steps=50,
    decay_fraction=0.4,
    ema_decay=0.99,
    bf16=True,
    log_every=20,
    evaluate_every=200,
    sheet_every=200,
    checkpoint_every=100,
)
SCENES = 2500


def control(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    smoke: bool = False,
) -> Run:
    """Train copies of half of the blocks and their projections; the model stays as it is."""
    config = CONTROL.lasting(steps, smoke=smoke)
    return control_run(data, output, source, config, "lines", scenes=32 if smoke else SCENES)
