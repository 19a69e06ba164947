"""pocket-clip: a CLIP of 4.8 million parameters that knows pocket's images and scenes.

It scores captions, chooses the best of several drawings and judges what pocket draws; it knows no photographs
and no words but those of the pocket data set. After these steps it counts but cannot tell left from right.
"""

from __future__ import annotations

from pathlib import Path

from sanakit.models.clip import ClipConfig, TowerConfig
from sanakit.pocket.train.clip import clip_run
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run

# A thing of a scene is 64 of 128 pixels: four by four patches.
MODEL = ClipConfig(
    vision=TowerConfig(width=192, depth=6, heads=6, mlp_width=768, activation="gelu"),
    text=TowerConfig(width=192, depth=3, heads=6, mlp_width=768, activation="gelu"),
    image_size=128,
    patch_size=16,
    vocab_size=3072,
    max_tokens=32,
    eos_token=3071,
    embed_width=192,
)

CONTRASTIVE = TrainConfig(
    steps=600,
    batch_size=64,
    learning_rate=1e-3,
    optimizer="muon",
    muon_learning_rate=3e-3,
    warmup_steps=30,
    decay_fraction=0.5,
    ema_decay=0.98,
    bf16=True,
    log_every=20,
    evaluate_every=100,
    sheet_every=200,
    checkpoint_every=50,
)


def contrastive(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Train pocket-clip from nothing."""
    return clip_run(data, output, MODEL, CONTRASTIVE.lasting(steps, smoke=smoke))
