"""pocket-world, the embedded world model: 64 px, 37 frames at 16 a second, in chunks of 12 frames.

Its stages: `pocket-world-autoencoder` (pocket-video's, further on renderings) and `pocket-world` (the
transformer, on 640 tokens, with pocket's own text encoder). Transformer and autoencoder have about 22 MB in
float16; the text encoder's and the tokenizer's files, 11.8 MB more, are those of pocket.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.models.world.config import SanaWMConfig
from sanakit.pocket.recipes.video import AUTOENCODER, CHANNELS, TERMS, TRAINING
from sanakit.pocket.train.worlds.autoencoder import world_autoencoder_run
from sanakit.pocket.train.worlds.transformer import WorldAim, pocket_world_run
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.world_velocity import WorldMixing
from sanakit.train.run import Run

BEGUN_RUN = "pocket-video-autoencoder"  # the folder beside the run's where none is named
FURTHER = replace(TRAINING, steps=2000, learning_rate=2e-4, warmup_steps=50)  # of the autoencoder

# Three blocks of gated delta attention and one of softmax attention, twice. It streams.
TRANSFORMER = SanaWMConfig(
    depth=8,
    width=192,
    cross_heads=6,
    head_dim=32,
    text_width=256,  # of pocket's text encoder
    latent_channels=CHANNELS,
    plucker_channels=24,  # 6 for each of the four frames of a latent
    mlp_ratio=3.0,
    sample_size=8,
    max_positions=256,
    variant="streaming",
    rounded=False,
)
WORLD = TrainConfig(
    steps=3000,
    batch_size=16,
    learning_rate=1e-3,
    optimizer="muon",
    muon_learning_rate=3e-3,
    warmup_steps=100,
    decay_fraction=0.4,
    ema_decay=0.998,
    bf16=True,
    log_every=20,
    evaluate_every=250,
    sheet_every=500,
    checkpoint_every=100,
)
SHIFT = 3.0  # as pocket's
DEFAULTS = {"steps": 12, "guidance": 1.0, "solver": "dpm"}
EXAMPLES = ("an armchair in a room with blue walls and a wooden floor", "a plant in a room")


def world(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    autoencoder: str | os.PathLike[str] | None = None,
    smoke: bool = False,
) -> Run:
    """Train the transformer of worlds from scratch, with the text encoder of `source`."""
    aim = WorldAim(
        transformer=TRANSFORMER,
        autoencoder=AUTOENCODER,
        mixing=WorldMixing(),
        shift=SHIFT,
        every=50 if smoke else 1,
        defaults=DEFAULTS,
        example_prompts=EXAMPLES,
    )
    config = WORLD.lasting(steps, smoke=smoke)
    return pocket_world_run(data, output, aim, config, source=source, autoencoder=autoencoder)


def further_autoencoder(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    autoencoder: str | os.PathLike[str] | None = None,
    smoke: bool = False,
) -> Run:
    """Train pocket-video's autoencoder further on renderings: that of `autoencoder`, or of the run beside."""
    config = FURTHER.lasting(steps, smoke=smoke)
    begun = output.parent / BEGUN_RUN if autoencoder is None else Path(autoencoder)
    return world_autoencoder_run(data, output, AUTOENCODER, config, begun=begun, terms=TERMS)
