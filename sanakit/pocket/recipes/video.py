"""pocket-video, the embedded model of clips: 64 px, 17 frames at 8 a second.

Its stage so far: `pocket-video-autoencoder` (Wan 2.1's class in small, 16 latent channels for 4 frames of 8x8
pixels).
"""

from __future__ import annotations

from pathlib import Path

from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.pocket.train.video_autoencoder import video_autoencoder_run
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.clip_autoencoder import ClipTerms
from sanakit.train.run import Run

CHANNELS = 16
AUTOENCODER = WanVAEConfig(
    width=16,
    depth=1,
    latent_channels=CHANNELS,
    latents_mean=(0.0,) * CHANNELS,  # measured when it is trained
    latents_std=(1.0,) * CHANNELS,
)

# A linear codec is delicate: its layers learn slowly, the residual branches and attention fast.
BRANCHES = (".conv1.", ".conv2.", ".norm1.", ".norm2.", ".attentions.")
TRAINING = TrainConfig(
    steps=4000,
    batch_size=1,
    learning_rate=4e-4,
    rate_factors=(*((part, 1.0) for part in BRANCHES), ("", 0.1)),
    warmup_steps=150,
    decay="linear",
    decay_fraction=0.4,
    betas=(0.9, 0.98),
    weight_decay=1e-4,
    clip_norm=1.0,
    ema_decay=0.995,
    bf16=True,
    log_every=25,
    evaluate_every=400,
    sheet_every=400,
    checkpoint_every=100,
)
TERMS = ClipTerms(pixels=1.0, squares=2.0, motion=1.0)


def autoencoder(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Train the autoencoder of clips, from a linear codec on."""
    config = TRAINING.lasting(steps, smoke=smoke)
    return video_autoencoder_run(data, output, AUTOENCODER, config, terms=TERMS)
