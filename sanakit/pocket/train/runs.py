"""From the pocket data set to a run that trains its autoencoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset

from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.data.encoding import encode_images
from sanakit.pocket.data.scenes import Scenes
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.images import Crops, IndexedImages
from sanakit.train.objectives.autoencoder import AutoencoderObjective, Terms, autoencoder_state
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.train.surgery.linear_init import start_linear
from sanakit.weights import (
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import kept_settings

SCENES = 10_000  # that a decoder is trained on, where it is


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
    source: str | os.PathLike[str] | None = None,
) -> Run:
    """Train a decoder on the images of the data set, from a linear start, another run's weights or a model's.

    whole_from: part of the steps after which whole images follow crops. latent_noise: in standard
    deviations. scene_share: part of the draws that goes to composed scenes. start: name of the run beside
    `output` to continue from. source: the model to continue from; `output`/model is then that model with the
    trained decoder.
    """
    pocket = open_pocket(data)
    training = np.array([row.split == "train" for row in pocket.rows])
    held_out = np.flatnonzero(~training)[:96]
    images = np.asarray(pocket.images)
    autoencoder = DCAE(model)
    if source is not None:
        check_trainable(source)
        autoencoder = load_image_autoencoder(source, part="both", dtype="float32")
    elif start is not None:
        fill_averaged(autoencoder, output.parent / start, autoencoder_state)
    elif not has_checkpoint(output):
        count = min(600, int(training.sum()))
        chosen = np.random.default_rng(config.seed).choice(np.flatnonzero(training), count, replace=False)
        start_linear(autoencoder, to_tensor(images[np.sort(chosen)]))
    autoencoder.to(training_device())
    deviation = 1.0
    if latent_noise:
        deviation = encode_images(autoencoder, images[held_out]).std().item()
    scenes = Scenes(pocket, SCENES)
    chances = np.full(SCENES, scene_share / SCENES)
    objective = AutoencoderObjective(
        autoencoder,
        Crops(
            cast(IndexedImages, ConcatDataset([cast(Any, images), cast(Any, scenes)])),
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

    def finish(folder: Path) -> None:
        if source is None:
            return
        refined = DCAE(autoencoder.config)
        fill_averaged(refined, folder, autoencoder_state)
        save_diffusers(
            folder / MODEL,
            transformer=load_transformer(source, kind="image", dtype="float32"),
            autoencoder=refined,
            text_encoder=load_text_encoder(source, dtype="float32"),
            dtype=torch.float16,
            **kept_settings(load_settings(source)),
        )

    made_with = MadeWith(
        source=source,
        data=data,
        content=pocket.fingerprint,
        choices={
            "crop": crop,
            "whole_from": whole_from,
            "latent_noise": latent_noise,
            "scene_share": scene_share,
            "start": start,
        },
    )
    return Run(objective, config, finish, made_with=made_with)
