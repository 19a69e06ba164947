"""From the pocket data set to training runs, and from their checkpoints to a model's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset

from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pocket.data.concepts import COMMON_CONCEPTS
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.train.latents import Mixture, encode_pictures, encode_set
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION, clean_prompt
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.pictures import Crops, Pictures
from sanakit.train.objectives.autoencoder import AutoencoderObjective, Terms, autoencoder_state
from sanakit.train.objectives.flow_matching import FlowMatchingObjective, start_text_encoder
from sanakit.train.run import MODEL, Run, averaged_parts, averaged_weights, compile_blocks
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.train.surgery.linear_init import start_linear
from sanakit.weights import save_diffusers

SCENES = 10_000  # that a decoder is trained on, where it is
INSTRUCTION_REPEATS = 50  # in the tokenizer's texts: makes each word of the instruction one token


def autoencoder_run(
    data: Path,
    output: Path,
    model: DCAEConfig,
    config: TrainConfig,
    *,
    crop: int,
    whole_from: float,
    latent_noise: float = 0.0,
    scene_share: float = 0.0,
    start: str | None = None,
) -> Run:
    """Train a decoder on the pictures of the data set, from a linear start or from another run's weights.

    whole_from: part of the steps after which whole pictures follow crops. latent_noise: in standard
    deviations. scene_share: part of the draws that goes to composed scenes. start: name of the run beside
    `output` to go on from.
    """
    pocket = open_pocket(data)
    training = np.array([row.split == "train" for row in pocket.rows])
    held_out = np.flatnonzero(~training)[:96]
    images = np.asarray(pocket.images)
    autoencoder = DCAE(model)
    if start is not None:
        autoencoder.load_state_dict(autoencoder_state(averaged_weights(output.parent / start)))
    elif not has_checkpoint(output):
        count = min(600, int(training.sum()))
        chosen = np.random.default_rng(config.seed).choice(np.flatnonzero(training), count, replace=False)
        start_linear(autoencoder, to_tensor(images[np.sort(chosen)]))
    autoencoder.to(training_device())
    deviation = 1.0
    if latent_noise:
        deviation = encode_pictures(autoencoder, images[held_out]).std().item()
    scenes = Scenes(pocket, SCENES)
    chances = np.full(SCENES, scene_share / SCENES)
    objective = AutoencoderObjective(
        autoencoder,
        Crops(
            cast(Pictures, ConcatDataset([cast(Any, images), cast(Any, scenes)])),
            np.concatenate([(1 - scene_share) * training / training.sum(), chances]),
            seed=config.seed,
            crop=crop,
            whole_from=int(config.steps * whole_from),
        ),
        to_tensor(images[held_out]),
        terms=Terms(tone=1.0, edges=1.0),
        seed=config.seed,
        latent_noise=latent_noise * deviation,
    )
    return Run(objective, config, lambda _: None)


def flow_matching_run(
    data: Path,
    output: Path,
    transformer: SanaConfig,
    text: Gemma2Config,
    config: TrainConfig,
    *,
    autoencoder: DCAEConfig,
    shift: float,
    mixture: Mixture,
    defaults: Mapping[str, Any],
    offers: Mapping[str, Any],
) -> Run:
    """Train a transformer and its text encoder on the latents of `pocket-autoencoder`, a run beside `output`.

    mixture: of what is drawn. defaults, offers (styles, example prompts, sizes): stored in the model.
    """
    pocket = open_pocket(data)
    torch.manual_seed(config.seed)
    device = training_device()
    codec = DCAE(autoencoder).eval().to(device)
    codec.load_state_dict(averaged_weights(output.parent / "pocket-autoencoder"))
    learned = encode_set(pocket, codec, mixture)
    scale = 1 / learned.drawn.latents.std().item()
    captions = [clean_prompt(caption) for row in pocket.rows for caption in row.captions]
    tokenizer = train_tokenizer([COMPLEX_HUMAN_INSTRUCTION] * INSTRUCTION_REPEATS + captions, text.vocab_size)
    sana, gemma = Sana(transformer), Gemma2(text)
    sana.init_weights()
    start_text_encoder(gemma)
    sana.to(device)
    gemma.to(device)
    if config.compile:
        compile_blocks(sana)
    objective = FlowMatchingObjective(
        sana,
        gemma,
        tokenizer,
        learned.drawn.latents * scale,
        learned.drawn.captions,
        learned.weights,
        seed=config.seed,
        shift=shift,
        sheet_prompts=list(COMMON_CONCEPTS.values())[::6],
        sheet_guidance=defaults["guidance"],
        sheet_steps=defaults["steps"],
        decode=lambda z: torch.cat([codec.decode(part / scale) for part in z.split(8)]),
    )

    def finish(folder: Path) -> None:
        _export(folder, objective, replace(autoencoder, scaling_factor=scale), shift, defaults, offers)

    return Run(objective, config, finish)


def _export(
    output: Path,
    objective: FlowMatchingObjective,
    autoencoder: DCAEConfig,
    shift: float,
    defaults: Mapping[str, Any],
    offers: Mapping[str, Any],
) -> None:
    """Write the averaged weights, with the best decoder there is, as a diffusers folder in fp16."""
    transformer, encoder = averaged_parts(output, objective)
    codec = DCAE(autoencoder)
    refined = output.parent / "pocket-decoder"
    stage = refined if refined.exists() else output.parent / "pocket-autoencoder"
    codec.load_state_dict(autoencoder_state(averaged_weights(stage)))
    save_diffusers(
        output / MODEL,
        transformer=transformer,
        autoencoder=codec,
        text_encoder=encoder,
        flow_shift=shift,
        defaults=defaults,
        dtype=torch.float16,
        name="pocket",
        licence="Apache-2.0",
        **offers,
    )
