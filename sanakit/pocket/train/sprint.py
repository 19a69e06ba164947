"""From pocket to a model that draws as it does in one to four steps, on the data set's own samples."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch

from sanakit.pocket.data.dataset import open_designs
from sanakit.pocket.data.pool import build_pool
from sanakit.pocket.data.samples import list_samples
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.wording import Wording
from sanakit.pocket.train.drawings import foreign_names, watched_sets
from sanakit.pocket.train.feed import PocketFeed
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.feed import decoded
from sanakit.train.objectives.velocity import Sheet, VelocityObjective
from sanakit.train.record import MadeWith
from sanakit.train.run import Run
from sanakit.train.runs.sprint import SprintAim, distil, save_student
from sanakit.train.surgery.guidance_embed import check_teacher
from sanakit.weights import (
    load_configs,
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
)
from sanakit.weights.quantized import check_trainable

SHEET = (
    *("a red apple", "a panda on a yellow background", "a fox to the left of a red apple", "a dog"),
    *("a house with a garden", "a blue cat", "a purple elephant", "a tulip, soft gradient"),
)


def pocket_sprint_run(
    data: Path,
    output: Path,
    source: str | os.PathLike[str],
    config: TrainConfig,
    aim: SprintAim,
    *,
    scenes: int,
    every: int = 1,
) -> Run:
    """Distil pocket, or a folder that its recipe wrote, on a pool of latents that is made first.

    scenes: how many are composed. every: 1: take all samples; 2: every second one, and so on. The result is
    `output`/model, a Sprint model. Raises DataError for the data set, SettingsError for a source that cannot
    be distilled, and what loading raises.
    """
    check_trainable(source)
    check_teacher(load_configs(source)[0], os.fspath(source))
    notes: list[str] = []
    pocket, both = open_designs(data, notes)
    composed, device, settings = Scenes(pocket, scenes), training_device(), load_settings(source)
    codec = load_image_autoencoder(source, part="both", dtype="float32").eval()
    scale = codec.config.scaling_factor
    pool = build_pool(output / "pool", list_samples(both, scenes)[::every], both, composed, codec)
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device, dtype="float32")
    teacher = load_transformer(source, kind="image", device=device, dtype="float32")
    feed = PocketFeed(pool, both.rows, composed, Wording(foreign_names(data)), scale=scale, seed=config.seed)
    side = teacher.config.sample_size
    velocity = VelocityObjective(
        teacher,
        encoder,
        feed,
        shift=settings.flow_shift,
        seed=config.seed,
        caption_dropout=0.0,
        watched=watched_sets(pocket, codec, scale),
        sheet=Sheet(
            prompts=SHEET,
            guidance=settings.guidance,
            steps=settings.steps,
            shape=(teacher.config.latent_channels, side, side),
            decode=lambda latents: decoded(codec, latents),
        ),
    )
    objective = distil(velocity, aim)

    def finish(folder: Path) -> None:
        save_student(folder, objective, codec, settings)

    made_with = MadeWith(
        source=source,
        data=data,
        content=both.fingerprint,
        choices=asdict(aim) | {"scenes": scenes, "every": every},
    )
    return Run(objective, config, finish, tuple(notes), made_with)
