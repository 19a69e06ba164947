"""From the pocket data set to a run that trains its autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
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
from sanakit.train.run import Run, fill_averaged
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.train.surgery.linear_init import start_linear

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
) -> Run:
    """Train a decoder on the images of the data set, from a linear start or from another run's weights.

    whole_from: part of the steps after which whole images follow crops. latent_noise: in standard
    deviations. scene_share: part of the draws that goes to composed scenes. start: name of the run beside
    `output` to continue from.
    """
    pocket = open_pocket(data)
    training = np.array([row.split == "train" for row in pocket.rows])
    held_out = np.flatnonzero(~training)[:96]
    images = np.asarray(pocket.images)
    autoencoder = DCAE(model)
    if start is not None:
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
    made_with = MadeWith(
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
    return Run(objective, config, lambda _: None, made_with=made_with)
