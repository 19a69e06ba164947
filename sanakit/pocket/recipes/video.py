"""pocket-video, the embedded model of clips: 64 px, 17 frames at 8 a second.

Its stages: `pocket-video-autoencoder` (Wan 2.1's class in small, 16 latent channels for 4 frames of 8x8
pixels), `pocket-video-images` (the transformer on single frames: 64 tokens) and `pocket-video` (on clips: 320
tokens). The transformer begins with the more important blocks of pocket, and reads pocket's text encoder. In
float16 it has 18.6 MB, the autoencoder 5.2; the text encoder, the tokenizer and the known things, 12.0 MB,
are pocket's.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.models.video.sana_video import SanaVideoConfig
from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.pocket.train.video.autoencoder import video_autoencoder_run
from sanakit.pocket.train.video.transformer import VideoAim, images_run, video_run
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.clip_autoencoder import ClipTerms
from sanakit.train.objectives.clip_velocity import ClipMixing
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

TRANSFORMER = SanaVideoConfig(
    depth=7,  # of pocket's 12
    width=256,
    cross_heads=4,
    head_dim=32,
    text_width=256,  # of pocket's text encoder
    latent_channels=CHANNELS,
    mlp_ratio=2.5,
    sample_size=8,
    max_positions=256,
)
VIDEO = TrainConfig(
    steps=3000,
    batch_size=32,
    learning_rate=1e-3,
    optimizer="muon",
    muon_learning_rate=2e-3,
    warmup_steps=100,
    decay_fraction=0.4,
    ema_decay=0.998,
    bf16=True,
    log_every=20,
    evaluate_every=500,
    sheet_every=500,
    checkpoint_every=100,
)
IMAGES = replace(VIDEO, steps=3000, batch_size=160, decay_fraction=0.2, evaluate_every=250, sheet_every=250)
# Half of the clips begin with a clean frame. A fifth of the steps are in chunks of 3 and 2 latent frames, so
# that drawing in chunks can be learned from this model.
MIXING = ClipMixing(held=0.5, in_chunks=0.2, chunk=2, alike=0.2)
IMAGE_SHARE = 0.1  # of the steps: every tenth, as LongSANA's
SHIFT = 3.0  # as pocket's
WINDOWS, MOTIONS = 12, 2  # samples of each animated thing, and of each well-known drawing
DEFAULTS = {"steps": 16, "guidance": 3.0, "solver": "dpm"}
EXAMPLES = (
    "a cat moving a little",
    "a ghost bobbing up and down",
    "a star turning",
    "a red apple bouncing up and down",
)


def images(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    autoencoder: str | os.PathLike[str] | None = None,
    smoke: bool = False,
) -> Run:
    """Train the transformer of clips on single frames, from the blocks of `source` on."""
    config = IMAGES.lasting(steps, smoke=smoke)
    return images_run(data, output, _aim(smoke), config, source=source, autoencoder=autoencoder)


def video(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    autoencoder: str | os.PathLike[str] | None = None,
    smoke: bool = False,
) -> Run:
    """Train the transformer of clips: from the run of `pocket-video-images` beside it, or from `source`."""
    config = VIDEO.lasting(steps, smoke=smoke)
    return video_run(data, output, _aim(smoke), config, source=source, autoencoder=autoencoder)


def autoencoder(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Train the autoencoder of clips, from a linear codec on."""
    config = TRAINING.lasting(steps, smoke=smoke)
    return video_autoencoder_run(data, output, AUTOENCODER, config, terms=TERMS)


def _aim(smoke: bool) -> VideoAim:
    return VideoAim(
        transformer=TRANSFORMER,
        autoencoder=AUTOENCODER,
        mixing=MIXING,
        image_share=IMAGE_SHARE,
        shift=SHIFT,
        windows=WINDOWS,
        motions=MOTIONS,
        every=200 if smoke else 1,
        defaults=DEFAULTS,
        example_prompts=EXAMPLES,
    )
