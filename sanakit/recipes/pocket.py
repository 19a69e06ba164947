"""Pocket, the embedded model: an illustrator of 256 px that learns on a CPU.

Three stages: `autoencoder` (latents and a first decoder), `decoder` (the decoder again, on noisy latents, so
that it forgives what the transformer gets wrong) and `flow_matching` (transformer and text encoder together,
on the latents of the first stage). The second and third need only the first; the third writes the model.
Each takes `steps` to last longer or shorter than it was tuned for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sanakit.models.dc_ae import DC_AE_POCKET
from sanakit.models.gemma2 import Gemma2Config
from sanakit.models.sana import SanaConfig
from sanakit.train.config import TrainConfig
from sanakit.train.pocket import Run, autoencoder_run, flow_matching_run

TRANSFORMER = SanaConfig(depth=8, width=256, cross_heads=4, text_width=256, qk_norm=True, sample_size=8)

# Every layer slides: the 194 tokens of instruction before each prompt would dilute a small model's attention.
TEXT_ENCODER = Gemma2Config(
    vocab_size=4096,
    width=256,
    depth=3,
    heads=8,
    kv_heads=4,
    head_dim=32,
    mlp_width=768,
    query_scalar=32,
    sliding_window=32,
    sliding_layers=(True, True, True),
)

AUTOENCODER = TrainConfig(
    steps=5000,
    batch_size=16,
    learning_rate=1e-3,
    # The linear codec that it starts as is delicate: its layers learn slowly, the residual branches fast.
    rate_factors=((".conv1.", 1.0), (".conv2.", 1.0), (".norm.", 1.0), ("", 0.03)),
    warmup_steps=150,
    decay="cosine",
    decay_fraction=1.0,
    weight_decay=1e-3,
    clip_norm=3.0,
    bf16=True,
    evaluate_every=500,
)
DECODER = replace(AUTOENCODER, steps=1000, learning_rate=5e-4, evaluate_every=250)

FLOW_MATCHING = TrainConfig(
    steps=3500,
    batch_size=48,
    learning_rate=1e-3,
    optimizer="muon",
    muon_learning_rate=2e-3,
    decay_fraction=0.35,
    bf16=True,
    compile=True,
    evaluate_every=200,
    sheet_every=500,
    checkpoint_every=250,
)

COMMON_SHARE = 0.85  # of the draws, for the 200 common things
SHIFT = 3.0  # towards noise, where the prompt decides; in training and sampling
DEFAULTS = {"steps": 10, "guidance": 2.5, "width": 256, "height": 256, "solver": "dpm"}


def autoencoder(data: Path, output: Path, steps: int | None = None) -> Run:
    """Stage 1: the encoder a linear codec and kept; the decoder trained on crops, then on whole pictures."""
    config = AUTOENCODER.lasting(steps)
    return autoencoder_run(data, output, DC_AE_POCKET, config, crop=128, whole_from=0.85)


def decoder(data: Path, output: Path, steps: int | None = None) -> Run:
    """Stage 2: the decoder goes on with noise of up to 0.15 standard deviations on its latents."""
    return autoencoder_run(
        data,
        output,
        DC_AE_POCKET,
        DECODER.lasting(steps),
        crop=128,
        whole_from=0.5,
        latent_noise=0.15,
        start="pocket-autoencoder",
    )


def flow_matching(data: Path, output: Path, steps: int | None = None) -> Run:
    """Stage 3: transformer and text encoder, most of the draws from the 200 common things."""
    return flow_matching_run(
        data,
        output,
        TRANSFORMER,
        TEXT_ENCODER,
        FLOW_MATCHING.lasting(steps),
        autoencoder=DC_AE_POCKET,
        shift=SHIFT,
        common_share=COMMON_SHARE,
        defaults=DEFAULTS,
    )
