"""From captioned images to a ControlNet for a finished model, which stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sanakit.data.read.source import data_fingerprint
from sanakit.errors import SettingsError
from sanakit.images.hints import HintKind
from sanakit.models.controlnet import COPIES, ControlNet
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.objectives.control import CONTROLNET, ControlObjective
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, averaged_weights
from sanakit.train.runs.finetune import show_images, velocity_of
from sanakit.train.runs.images import open_images
from sanakit.train.state.average import part_of
from sanakit.weights import (
    load_configs,
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_controlnet,
)
from sanakit.weights.quantized import check_trainable


def control_run(
    data: str | os.PathLike[str],
    output: Path,
    source: str | os.PathLike[str],
    config: TrainConfig,
    kind: HintKind,
    *,
    resolution: int | None = None,
    workers: int = 0,
) -> Run:
    """Train a ControlNet for a model on the captioned images of a place; the result is `output`/model.

    data, source, workers: as for `finetune_run`; of a cache the latents are decoded to make hints of. kind:
    of the hints, which are made of the images. resolution: in pixels; None: the model's own.
    The copies are seven, as published, or half of the blocks of a smaller model.
    Raises DataError without images or captions to train on, SettingsError for a quantised model, a one-step
    one or one of a single block, and what opening and loading raise.
    """
    # 1. The model, frozen
    check_trainable(source)
    before, codec_config = load_configs(source)
    if before.guidance_embed:
        raise SettingsError(
            f"{source} is a Sprint model, whose few steps this training does not know: train the ControlNet "
            "for the model that it was made from."
        )
    device = training_device()
    codec = load_image_autoencoder(source, part="both", device=device)
    settings = load_settings(source)
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device)
    transformer = load_transformer(source, kind="image", device=device, dtype="float32")
    copies = copies_of(before.depth)

    # 2. The images, and those to measure on
    own = before.sample_size * codec_config.compression
    opened = open_images(data, output, source, resolution=resolution, own=own, text=True)
    shown = show_images(opened, output, config, codec, workers=workers)

    # 3. The objective
    velocity = velocity_of(shown, transformer, encoder, codec, settings, seed=config.seed)
    objective = ControlObjective(velocity, codec, kind, shown.reference.images, copies=copies)

    # 4. The result
    def finish(folder: Path) -> None:
        shown.loader.close()
        shown.report.write()
        net = ControlNet(objective.net.config)
        net.load_state_dict(part_of(averaged_weights(folder), CONTROLNET))
        dtype = "float16" if settings.precision == "any" else settings.precision
        save_controlnet(folder / MODEL, net, transformer, hint=kind, dtype=dtype)

    made_with = MadeWith(
        source=source,
        data=data,
        content=data_fingerprint(shown.images.source),
        choices={"resolution": shown.images.resolution, "kind": kind, "copies": copies},
    )
    return Run(objective, config, finish, tuple(shown.report.write().splitlines()), made_with)


def copies_of(depth: int) -> int:
    """Return how many of a model's blocks are copied: seven, as published, or half of fewer than fourteen.

    >>> copies_of(20), copies_of(12)
    (7, 6)
    """
    return min(COPIES, depth // 2)
