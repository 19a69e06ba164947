"""From captioned images to a fine-tuned model.

Autoencoder and text encoder come from a finished model; so does the transformer, unless it is to begin with
new weights. It may be trained at another resolution than it was: see `at_resolution`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import torch

from sanakit.data.batches.loader import Loader
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.read.source import data_fingerprint
from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.feeds.feed import decoded
from sanakit.train.objectives.velocity import (
    CAPTION_DROPOUT,
    Sheet,
    VelocityObjective,
    Watched,
)
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, averaged_parts
from sanakit.train.runs.image_report import ImageReport, begin_report
from sanakit.train.runs.images import (
    Reference,
    TrainedImages,
    count_captions,
    measured_images,
    open_images,
)
from sanakit.train.surgery.teacher import as_teacher
from sanakit.weights import (
    load_configs,
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import kept_settings
from sanakit.weights.settings import ModelSettings

FINETUNED = "-finetuned"
REFERENCE = 16  # images to measure on, at most
HELD_OUT_FROM = 100  # images; of fewer, all are trained on, those to measure on, too
DRAWN = 8  # images on a sheet, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """The changes of a fine-tuning besides the weights.

    resolution: pixels, side of the square whose area all training sizes have about; None: the model's own.
    positions: give a transformer without positions those that the published 2K and 4K models have.
    flow_shift: of times towards noise, in training and sampling; None: the model's own.
    fresh: begin with new weights of the transformer. train_text: train the text encoder along.
    teacher: make a teacher for distillation of it first (`surgery/teacher.py`).
    name: of the result; "": the source's, with "-finetuned". Raises SettingsError for a shift out of range.
    """

    resolution: int | None = None
    positions: bool = False
    flow_shift: float | None = None
    fresh: bool = False
    train_text: bool = False
    teacher: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if self.flow_shift is not None and not 0 < self.flow_shift < inf:
            raise SettingsError(
                f"flow_shift = {self.flow_shift!r}, but it must be a number above 0; SANA uses 3."
            )


def finetune_run(
    data: str | os.PathLike[str],
    output: Path,
    source: str | os.PathLike[str],
    config: TrainConfig,
    aim: Aim,
    *,
    workers: int = 0,
) -> Run:
    """Train a model on the captioned images of a place; the result is `output`/model.

    data: anything `open_source` opens, or the folder of a cache made for `source` (`sana data cache`), whose
    resolution is then the training's. source: catalog name or folder of a whole model. workers: processes
    that read images; 0: this one. `output`/report.json tells what became of the images, from the start.
    Raises DataError without images or captions to train on, SettingsError for a one-step or quantised model
    and for a resolution that the autoencoder does not fit, and what opening and loading raise.
    """
    # 1. The model, and the size that it is trained at
    check_trainable(source)
    before, codec_config = load_configs(source)
    if before.guidance_embed:
        raise SettingsError(
            f"{source} is a Sprint model, distilled to few steps, which this training would undo: train the "
            "model it was made from."
        )
    compression = codec_config.compression
    device = training_device()
    codec = load_image_autoencoder(source, part="both", device=device)
    settings = load_settings(source)
    shift = settings.flow_shift if aim.flow_shift is None else aim.flow_shift

    # 2. The images, or a cache of them, and those to measure on
    own = before.sample_size * compression
    shown = show_images(
        open_images(data, output, source, resolution=aim.resolution, own=own, text=not aim.train_text),
        output,
        config,
        codec,
        workers=workers,
    )
    resolution = shown.images.resolution

    # 3. Text encoder and transformer
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device, dtype="float32" if aim.train_text else None)
    changed = at_resolution(before, resolution // compression, positions=aim.positions)
    transformer = _transformer(source, changed, fresh=aim.fresh)
    transformer = as_teacher(transformer) if aim.teacher else transformer

    # 4. The objective, its data, and the samples to look at
    own_way = replace(settings, flow_shift=shift)
    objective = velocity_of(
        shown, transformer, encoder, codec, own_way, seed=config.seed, train_text=aim.train_text
    )

    # 5. The result
    def finish(folder: Path) -> None:
        shown.loader.close()
        shown.report.write()
        trained, text = averaged_parts(folder, objective)
        name = aim.name or f"{settings.name.removesuffix(FINETUNED)}{FINETUNED}"
        # Known things are left out: it learned words of its captions, and would call them unknown.
        kept = replace(settings, flow_shift=shift, name=name, known_things=None)
        if resolution != own:
            kept = replace(kept, width=resolution, height=resolution, sizes=())
        save_diffusers(
            folder / MODEL,
            transformer=trained,
            autoencoder=codec,
            text_encoder=text,
            dtype="float16" if settings.precision == "any" else settings.precision,
            **kept_settings(kept),
        )

    made_with = MadeWith(
        source=source,
        data=data,
        content=data_fingerprint(shown.images.source),
        choices={
            "resolution": resolution,
            "flow_shift": shift,
            "positions": aim.positions,
            "fresh": aim.fresh,
            "train_text": aim.train_text,
            **({"teacher": True} if aim.teacher else {}),
            "instruction": encoder.instruction,
            "max_tokens": encoder.max_tokens,
        },
    )
    return Run(objective, config, finish, tuple(shown.report.write().splitlines()), made_with)


@dataclass(frozen=True, slots=True)
class ShownImages:
    """The images of a training: what reads them, those to measure on, and the report on them."""

    images: TrainedImages
    loader: Loader | CachedLoader
    reference: Reference
    report: ImageReport


def show_images(
    images: TrainedImages, output: Path, config: TrainConfig, codec: DCAE, *, workers: int
) -> ShownImages:
    """Return a training's images, those to measure on held out where there are enough.

    codec: of the latents, on the device to train on. Raises DataError without images or captions.
    """
    multiple, device = codec.config.compression, next(codec.parameters()).device

    def loader_without(numbers: np.ndarray) -> Loader | CachedLoader:
        return images.loader(numbers, config, multiple=multiple, device=device, workers=workers)

    loader = loader_without(np.empty(0, np.int64))
    captions = count_captions(images.source, np.concatenate(loader.buckets.members))
    reference, numbers = measured_images(images.source, loader, codec, REFERENCE)
    held_out: list[str] = []
    if len(loader.buckets) >= HELD_OUT_FROM:
        held_out = [images.source.key(number) for number in numbers.tolist()]
        loader = loader_without(numbers)
    report = begin_report(output, images, config, loader, held_out, captions)
    return ShownImages(images, loader, reference, report)


def velocity_of(
    shown: ShownImages,
    transformer: Sana,
    encoder: TextEncoder,
    codec: DCAE,
    settings: ModelSettings,
    *,
    seed: int,
    train_text: bool = False,
    caption_dropout: float = CAPTION_DROPOUT,
) -> VelocityObjective:
    """Return the objective of a training on captioned images, with what it measures and draws meanwhile.

    settings: the model's, for the shift of times and for what is drawn. Others: as for `VelocityObjective`.
    """
    reference = shown.reference
    return VelocityObjective(
        transformer,
        encoder,
        CaptionedFeed(shown.loader, codec, shown.report.write),
        shift=settings.flow_shift,
        seed=seed,
        train_text=train_text,
        caption_dropout=caption_dropout,
        watched=[Watched("", reference.latents, reference.captions)],
        sheet=Sheet(
            prompts=reference.captions[:DRAWN],
            guidance=settings.guidance,
            steps=settings.steps,
            shape=tuple(reference.latents.shape[1:]),
            decode=lambda latents: decoded(codec, latents),
            above=reference.images[:DRAWN],
        ),
    )


def at_resolution(config: SanaConfig, sample_size: int, *, positions: bool = False) -> SanaConfig:
    """Return a transformer's config for another resolution; its weights stay what they are.

    sample_size: side in latents. A model without positions stays so, unless `positions` gives it the fixed
    ones of the published 2K model. Positions that are there are interpolated: the new grid spans the same
    coordinates, more finely. At twice the side, every second place is an old one; 2K becomes 4K.
    """
    scale = config.position_interpolation
    if scale is None:
        scale = 1.0 if positions else None
    else:
        scale *= sample_size / config.sample_size
    return replace(config, sample_size=sample_size, position_interpolation=scale)


def _transformer(source: str | os.PathLike[str], config: SanaConfig, *, fresh: bool) -> Sana:
    """Return the source's transformer with another config, or a new one."""
    if fresh:
        transformer = Sana(config)
        transformer.init_weights()
        return transformer.to(training_device())
    transformer = load_transformer(source, kind="image", device=training_device(), dtype="float32")
    transformer.config = config  # positions are computed, not stored: no weight depends on them
    return transformer
