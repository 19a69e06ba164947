"""Pocket, the embedded model: an illustrator of 256 px that learns on a CPU.

Its stages: `pocket-autoencoder` (latents and a first decoder), `pocket-decoder` (the decoder again, on noisy
latents, so that it forgives what the transformer gets wrong), `pocket-words` (the text encoder, taught by
sentence models before anything is drawn) and `pocket-drawings` (the transformer, on single things, in all
their colours and shapes of canvas, and on composed scenes); apart from them `pocket-clip`, which scores
captions, and `pocket-judge`, which answers PocketEval. `pocket` is all of them, one after the other. Each
takes `steps` to last longer or shorter than it was tuned for, and looks for the stages before it beside its
own folder.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.models.dc_ae import DC_AE_POCKET
from sanakit.models.gemma2 import Gemma2Config
from sanakit.models.sana import SanaConfig
from sanakit.pocket.data.canvas import SIZES
from sanakit.pocket.data.toy import build_toy
from sanakit.pocket.recipes.clip import contrastive
from sanakit.pocket.train.drawings import Drawings, drawings_run
from sanakit.pocket.train.judge import judge_run
from sanakit.pocket.train.runs import autoencoder_run
from sanakit.pocket.train.words_run import words_run
from sanakit.pocket.words.captions import STYLES
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run, Stage

# Time as t in [0, 1] and qk-norm: what distillation into few steps asks of a teacher.
TRANSFORMER = SanaConfig(
    depth=12, width=256, cross_heads=4, text_width=256, qk_norm=True, sample_size=8, time_scale=1.0
)

# Every layer slides: the 194 tokens of instruction before each prompt would dilute a small model's attention.
TEXT_ENCODER = Gemma2Config(
    vocab_size=12_288,
    width=256,
    depth=4,
    heads=8,
    kv_heads=4,
    head_dim=32,
    mlp_width=512,
    query_scalar=32,
    sliding_window=32,
    sliding_layers=(True, True, True, True),
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
DECODER = replace(AUTOENCODER, learning_rate=8e-4)

WORDS = TrainConfig(
    steps=1600,
    batch_size=256,
    learning_rate=1.5e-3,
    optimizer="muon",
    muon_learning_rate=2e-3,
    betas=(0.9, 0.98),
    decay_fraction=0.5,
    weight_decay=0.0,
    ema_decay=0.99,
    bf16=True,
    evaluate_every=200,
    checkpoint_every=200,
)

DRAWINGS = TrainConfig(
    steps=6000,
    batch_size=96,
    learning_rate=2e-3,
    optimizer="muon",
    muon_learning_rate=4e-3,
    warmup_steps=100,
    decay_fraction=0.25,
    bf16=True,
    compile=True,
    evaluate_every=250,
    sheet_every=500,
    checkpoint_every=100,
)
JUDGE = TrainConfig(
    steps=900,
    batch_size=64,
    learning_rate=1.5e-3,
    betas=(0.9, 0.98),
    warmup_steps=100,
    decay_fraction=0.6,
    weight_decay=0.02,
    ema_decay=0.997,
    bf16=True,
    evaluate_every=300,
)

SCENES = 24_000
SHIFT = 3.0  # towards noise, where the prompt decides; in training and sampling
DEFAULTS = {"steps": 10, "guidance": 2.5, "width": 256, "height": 256, "solver": "dpm"}
OFFERS = {
    "styles": {style.suffix[0].upper() + style.suffix[1:]: style.suffix for style in STYLES},
    "example_prompts": (
        "a red apple",
        "a panda on a yellow background",
        "a fox to the left of a red apple",
        "a tulip, soft gradient",
    ),
    "sizes": SIZES[:1],  # things are stretched on the other canvases, which were shown too seldom
}


def autoencoder(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Train the decoder on crops, then on whole images; the encoder is a fixed linear codec."""
    config = AUTOENCODER.lasting(steps, smoke=smoke)
    return autoencoder_run(data, output, DC_AE_POCKET, config, crop=128, whole_from=0.85)


def decoder(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Continue the decoder, also on scenes, with up to 0.06 standard deviations of noise on latents."""
    return autoencoder_run(
        data,
        output,
        DC_AE_POCKET,
        DECODER.lasting(steps, smoke=smoke),
        crop=128,
        whole_from=0.85,
        latent_noise=0.06,
        scene_share=0.32,
        start="pocket-autoencoder",
    )


def words(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Train the text encoder: words, their languages and their positions."""
    return words_run(data, output, TEXT_ENCODER, WORDS.lasting(steps, smoke=smoke))


def drawings(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    smoke: bool = False,
    config: TrainConfig = DRAWINGS,
) -> Run:
    """Train the transformer, new or from `source`, on all samples."""
    what = Drawings(
        transformer=TRANSFORMER,
        text=TEXT_ENCODER,
        autoencoder=DC_AE_POCKET,
        shift=SHIFT,
        scenes=32 if smoke else SCENES,
        defaults=DEFAULTS,
        offers=OFFERS,
    )
    return drawings_run(data, output, what, config.lasting(steps, smoke=smoke), source=source)


def judge(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> Run:
    """Train the judge of PocketEval from scratch on scenes; it is not part of the model."""
    return judge_run(data, JUDGE.lasting(steps, smoke=smoke))


def pocket(data: Path, output: Path, steps: int | None = None, *, smoke: bool = False) -> list[Stage]:
    """Run all stages in turn, each in a folder of `output`; the final model is that of `pocket-drawings`.

    smoke: two steps of each, on made-up shapes where there is no data set: does the way lead to the end?
    """
    if smoke and not data.exists():
        data = build_toy(output / "toy") if not (output / "toy").exists() else output / "toy"
    stages = {
        "pocket-autoencoder": autoencoder,
        "pocket-decoder": decoder,
        "pocket-words": words,
        "pocket-drawings": drawings,
        "pocket-clip": contrastive,
        "pocket-judge": judge,
    }

    def stage(name: str) -> Stage:
        return Stage(output / name, lambda folder: stages[name](data, folder, steps, smoke=smoke))

    return [stage(name) for name in stages]
