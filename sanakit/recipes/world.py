"""Fine-tune a world model on clips with camera paths.

The settings of the published size are those of SANA-WM's training of weights for chunks, but for AdamW's
epsilon (1e-10 there, 1e-8 here); batch size and length are ours. Smaller models have settings for a CPU.
"""

from __future__ import annotations

from pathlib import Path

from sanakit.recipes.finetune import PUBLISHED_WIDTH
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.world_velocity import WorldMixing
from sanakit.train.run import Run
from sanakit.train.runs.world import world_run
from sanakit.weights.video.settings import load_world_configs

SOURCE = "Efficient-Large-Model/SANA-WM_bidirectional-diffusers"
SHIFT = 9.95  # of times in the published training; models are drawn with 9.8
SMALL = TrainConfig(
    steps=1000,
    batch_size=8,
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
    steps=5000,
    batch_size=8,
    micro_batch=1,
    learning_rate=1e-5,
    warmup_steps=100,
    decay_fraction=0.0,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    clip_norm=0.5,
    ema_decay=0.0,  # the published training averages nothing
    bf16=True,
    recompute=True,
    log_every=10,
    evaluate_every=250,
    sheet_every=500,
    checkpoint_every=250,
)


def world(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str = SOURCE,
    resolution: int | None = None,
    batch_size: int | None = None,
) -> Run:
    """Train `source` on the clips of `data`, each with its camera path."""
    published = load_world_configs(source)[0].width >= PUBLISHED_WIDTH
    config = PUBLISHED if published else SMALL
    return world_run(
        data,
        output,
        source,
        config.requested(steps, batch_size),
        WorldMixing(),
        flow_shift=SHIFT if published else None,
        resolution=resolution,
    )
