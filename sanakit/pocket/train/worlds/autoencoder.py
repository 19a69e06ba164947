"""The autoencoder of pocket-world: pocket-video's, trained further on renderings.

Shapes: B clips, T frames, S side in pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sanakit.images.image import to_tensor
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.pocket.data.clips.samples import FRAMES
from sanakit.pocket.data.worlds.dataset import PocketWorlds, open_worlds
from sanakit.pocket.train.video.autoencoder import VAE, finished_autoencoder, open_trained
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.clips import Windows
from sanakit.train.objectives.clip_autoencoder import ClipAutoencoderObjective, ClipTerms
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run
from sanakit.weights import save_autoencoder
from sanakit.weights.fingerprint import weights_sha256

HELD_OUT = 24  # clips to measure on
MEASURED_ON = 64  # clips whose latents' mean and deviation the config gets


def world_autoencoder_run(
    data: Path,
    output: Path,
    model: WanVAEConfig,
    config: TrainConfig,
    *,
    begun: Path,
    terms: ClipTerms,
) -> Run:
    """Train an autoencoder of clips further on renderings; the result is `output`/model/vae.

    begun: the run of pocket-video's autoencoder, finished or not, or a model's folder.
    """
    notes: list[str] = []
    worlds = open_worlds(data)
    autoencoder = open_world_autoencoder(begun, model, worlds, notes)
    training = np.array([row.split == "train" for row in worlds.rows], dtype=np.float64)
    objective = ClipAutoencoderObjective(
        autoencoder.to(training_device()).train().requires_grad_(True),
        Windows(worlds, training / training.sum(), seed=config.seed, frames=FRAMES),
        held_out_windows(worlds),
        terms=terms,
    )

    def finish(folder: Path) -> None:
        trained = finished_autoencoder(folder, autoencoder.config, measured_windows(worlds))
        save_autoencoder(folder / MODEL / VAE, trained)

    made_with = MadeWith(
        parts={"autoencoder begun with": weights_sha256(autoencoder)},
        data=data,
        content=worlds.fingerprint,
        choices={"model": asdict(autoencoder.config), "terms": asdict(terms)},
    )
    return Run(objective, config, finish, tuple(notes), made_with)


def measured_windows(worlds: PocketWorlds) -> Tensor:
    """Return the beginnings of training clips that latents are normalised by, B 3 T S S in [-1, 1]."""
    return _windows(worlds, "train", MEASURED_ON)


def held_out_windows(worlds: PocketWorlds) -> Tensor:
    """Return the beginnings of clips of held-out things, B 3 T S S; of others where none is held out."""
    found = "thing" if any(row.split == "thing" for row in worlds.rows) else "train"
    return _windows(worlds, found, HELD_OUT)


def _windows(worlds: PocketWorlds, split: str, count: int) -> Tensor:
    numbers = [number for number, row in enumerate(worlds.rows) if row.split == split]
    chosen = numbers[:: max(1, len(numbers) // count)][:count]
    frames = min(FRAMES, worlds.length)
    stacked = [to_tensor(worlds.take(number, 0, 1, frames)) for number in chosen]
    return torch.stack(stacked).transpose(1, 2).contiguous()


def open_world_autoencoder(
    place: Path, config: WanVAEConfig, worlds: PocketWorlds, notes: list[str]
) -> WanVAE:
    """Return the autoencoder of a run or model's folder; all else as for `open_trained`."""
    return open_trained(place, config, partial(measured_windows, worlds), notes)
