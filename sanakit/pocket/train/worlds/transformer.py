"""From rendered camera paths to a world model: the run of `pocket-world`.

The transformer is new. It learns from latents of a finished autoencoder, which are encoded once before the
first step, from the clips' cameras, and from the features of pocket's text encoder, which stays as it is.
It is measured on things that it never saw ("thing_"), and on a family of paths that it never saw ("path_").
Shapes: N clips, C latent channels, F frames, T latent frames, S side in pixels.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.camera_paths import camera_numbers
from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.pocket.data.clips.pool import PIECE, TOLD_EVERY, encode_frames
from sanakit.pocket.data.pool import begin_pool, digest, end_pool, save_latents
from sanakit.pocket.data.worlds.dataset import RATE, PocketWorlds, open_worlds
from sanakit.pocket.train.video.autoencoder import normalised_for
from sanakit.pocket.train.worlds.autoencoder import measured_windows, open_world_autoencoder
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.feed import decoded
from sanakit.train.feeds.latents import PathFeed
from sanakit.train.objectives.velocity import TRANSFORMER, Sheet
from sanakit.train.objectives.world_velocity import WatchedPaths, WorldMixing, WorldObjective
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.weights import load_text_encoder
from sanakit.weights.fingerprint import weights_sha256
from sanakit.weights.video.settings import ChunkSettings
from sanakit.weights.video.world_folder import save_world

AUTOENCODER_RUN = "pocket-world-autoencoder"  # the folder beside the run's where none is named
WATCHED = 16  # clips of each kind to measure on
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldAim:
    """Settings of a run of pocket-world. defaults: of the model. shift: of times towards noise.

    every: 1 for all clips; n takes each n-th, for a trial.
    """

    transformer: SanaWMConfig
    autoencoder: WanVAEConfig  # of a run that is not finished
    mixing: WorldMixing
    shift: float
    every: int
    defaults: Mapping[str, Any]
    example_prompts: Sequence[str]


def pocket_world_run(
    data: Path,
    output: Path,
    aim: WorldAim,
    config: TrainConfig,
    *,
    source: str | os.PathLike[str],
    autoencoder: str | os.PathLike[str] | None,
) -> Run:
    """Train a world model; the result is `output`/model, latents are kept in `output`/pool.

    source: the model whose text encoder it reads. autoencoder: the run that trained it, or a model's folder;
    None: the run beside `output`. Its latents are normalised by these renderings.
    Raises DataError without the data set or the autoencoder.
    """
    notes: list[str] = []
    worlds = open_worlds(data)
    place = Path(autoencoder) if autoencoder is not None else output.parent / AUTOENCODER_RUN
    codec = open_world_autoencoder(place, aim.autoencoder, worlds, notes)
    codec = normalised_for(codec, measured_windows(worlds)).eval().requires_grad_(False)
    trained = [number for number, row in enumerate(worlds.rows) if row.split == "train"][:: aim.every]
    latents = build_world_pool(output / "pool", trained, worlds, codec)

    device = training_device()
    torch.manual_seed(config.seed)
    compression = (codec.config.frame_rule.per_latent, codec.config.compression)
    side, channels = worlds.side // compression[1], codec.config.latent_channels
    fitted = replace(aim.transformer, latent_channels=channels, sample_size=side)
    transformer = SanaWM(replace(fitted, plucker_channels=6 * compression[0]))
    transformer.init_weights()
    encoder = load_text_encoder(source, device=device, dtype="float32")
    feed = PathFeed(
        latents,
        [worlds.rows[number].captions for number in trained],
        torch.ones(len(trained), dtype=torch.float64),
        cameras_of(worlds, trained),
        seed=config.seed,
    )
    objective = WorldObjective(
        transformer.to(device),
        encoder,
        feed,
        mixing=aim.mixing,
        compression=compression,
        shift=aim.shift,
        seed=config.seed,
        watched=watched_clips(worlds, codec),
        sheet=Sheet(
            prompts=(),
            guidance=aim.defaults["guidance"],
            steps=aim.defaults["steps"],
            shape=tuple(latents.shape[1:]),
            decode=partial(decoded, codec),
        ),
    )

    def finish(folder: Path) -> None:
        averaged = SanaWM(transformer.config)  # what was trained may be sharded
        fill_averaged(averaged, folder, partial(part_of, name=TRANSFORMER))
        streams = transformer.config.causal
        save_world(
            folder / MODEL,
            transformer=averaged,
            autoencoder=codec,
            text_encoder=encoder,
            flow_shift=aim.shift,
            frames=worlds.length,
            rate=RATE,
            defaults={**aim.defaults, "width": worlds.side, "height": worlds.side},
            chunks=ChunkSettings(length=aim.mixing.chunk, times=None, shift=None) if streams else None,
            dtype=torch.float16,
            name="pocket-world",
            licence="Apache-2.0",
            example_prompts=aim.example_prompts,
            sizes=[(worlds.side, worlds.side)],
        )

    choices = {"transformer": asdict(transformer.config), "mixing": asdict(aim.mixing), "shift": aim.shift}
    made_with = MadeWith(
        source=source,
        parts={"autoencoder in use": weights_sha256(codec)},
        data=data,
        content=worlds.fingerprint,
        choices=choices | {"clips": len(trained)},
    )
    return Run(objective, config, finish, tuple(notes), made_with)


def build_world_pool(folder: Path, numbers: Sequence[int], worlds: PocketWorlds, codec: WanVAE) -> Tensor:
    """Encode clips into a folder, or open it where that was done; return normalised latents, N C T h w.

    It is made piece by piece and resumed. Raises DataError for a folder with another pool in it.
    """
    assert codec.encoder is not None
    made_of = {
        "samples": digest(numbers),
        "data": [worlds.fingerprint],
        "codec": [weights_sha256(codec.encoder), weights_sha256(codec.quant_conv)],
    }
    finished = begin_pool(folder, made_of)
    pieces = [numbers[first : first + PIECE] for first in range(0, len(numbers), PIECE)]
    files = [folder / f"paths-{number:05d}.npy" for number in range(len(pieces))]
    told = time.monotonic()
    for number, (file, piece) in enumerate(zip(files, pieces, strict=True)):
        if not file.exists():
            save_latents(file, encode_frames(codec, [np.array(worlds.frames[one]) for one in piece]))
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            log.info("Encoding clips: %s of %s files", number + 1, len(files))
    if not finished:
        end_pool(folder, made_of)
    return codec.normalise(torch.from_numpy(np.concatenate([np.load(file) for file in files])).float())


def cameras_of(worlds: PocketWorlds, numbers: Sequence[int]) -> Tensor:
    """Return the cameras of clips, N F 20, as training keeps them."""
    return torch.stack([camera_numbers(worlds.path(number)) for number in numbers])


def watched_clips(worlds: PocketWorlds, codec: WanVAE) -> list[WatchedPaths]:
    """Return clips of held-out things, and clips along held-out paths; a kind without clips is left out."""
    watched: list[WatchedPaths] = []
    for split in ("thing", "path"):
        numbers = [number for number, row in enumerate(worlds.rows) if row.split == split]
        chosen = numbers[:: max(1, len(numbers) // WATCHED)][:WATCHED]
        if chosen:
            latents = encode_frames(codec, [np.array(worlds.frames[number]) for number in chosen])
            captions = [worlds.rows[number].captions[0] for number in chosen]
            cameras = cameras_of(worlds, chosen)
            watched.append(WatchedPaths(f"{split}_", codec.normalise(latents), captions, cameras))
    return watched
