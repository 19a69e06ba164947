"""From a flow model and captioned images to a Sprint model, which draws in one to four steps."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from sanakit.data.read.source import data_fingerprint
from sanakit.flow.guidance_kinds import PLAIN
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana
from sanakit.train.config import TrainConfig
from sanakit.train.distill.ladd import Adversarial
from sanakit.train.distill.scm import Consistency
from sanakit.train.distributed.parallel import training_device
from sanakit.train.objectives.sprint import STUDENT_TRANSFORMER, SprintObjective
from sanakit.train.objectives.velocity import VelocityObjective
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, averaged_weights
from sanakit.train.runs.finetune import at_resolution, show_images, velocity_of
from sanakit.train.runs.images import open_images
from sanakit.train.state.average import part_of
from sanakit.train.surgery.guidance_embed import check_teacher, with_guidance
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

SPRINT = "-sprint"  # behind the source's name
STEPS = 2  # that a Sprint model draws in, as published


@dataclass(frozen=True, kw_only=True, slots=True)
class SprintAim:
    """The settings of a distillation besides those of the loop.

    adversarial: None: sCM alone. resolution: in pixels; None: the model's own.
    """

    consistency: Consistency = field(default_factory=Consistency)
    adversarial: Adversarial | None = field(default_factory=Adversarial)
    resolution: int | None = None


def sprint_run(
    data: str | os.PathLike[str],
    output: Path,
    source: str | os.PathLike[str],
    config: TrainConfig,
    aim: SprintAim,
    *,
    workers: int = 0,
) -> Run:
    """Distil a model on the captioned images of a place; the result is `output`/model, a Sprint model.

    data, source, workers: as for `finetune_run`. The source is teacher and beginning of the student. Raises
    DataError without images or captions to train on, SettingsError for a quantised or one-step model, for one
    that has to be made a teacher first, and what opening and loading raise.
    """
    # 1. The teacher, and the size that the student is trained at
    check_trainable(source)
    before, codec_config = load_configs(source)
    check_teacher(before, os.fspath(source))
    compression = codec_config.compression
    device, own = training_device(), before.sample_size * compression
    codec = load_image_autoencoder(source, part="both", device=device)
    settings = load_settings(source)

    # 2. The images, or a cache of them, and those to measure on
    opened = open_images(data, output, source, resolution=aim.resolution, own=own, text=True)
    shown = show_images(opened, output, config, codec, workers=workers)
    resolution = shown.images.resolution

    # 3. The objective
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device)
    teacher = load_transformer(source, kind="image", device=device, dtype="float32")
    teacher.config = at_resolution(before, resolution // compression)
    velocity = velocity_of(shown, teacher, encoder, codec, settings, seed=config.seed, caption_dropout=0.0)
    objective = distil(velocity, aim)

    # 4. The result
    def finish(folder: Path) -> None:
        shown.loader.close()
        shown.report.write()
        kept = settings
        if resolution != own:
            kept = replace(settings, width=resolution, height=resolution, sizes=())
        save_student(folder, objective, codec, kept)

    made_with = MadeWith(
        source=source,
        data=data,
        content=data_fingerprint(shown.images.source),
        choices=asdict(aim) | {"resolution": resolution},
    )
    return Run(objective, config, finish, tuple(shown.report.write().splitlines()), made_with)


def distil(velocity: VelocityObjective, aim: SprintAim) -> SprintObjective:
    """Return the objective of a student of a velocity objective's transformer, which becomes its teacher."""
    student = with_guidance(velocity.transformer, velocity.seed)
    return SprintObjective(velocity, student, aim.consistency, aim.adversarial)


def save_student(folder: Path, objective: SprintObjective, codec: DCAE, settings: ModelSettings) -> None:
    """Write a run's averaged student as a Sprint model. folder: the run's. settings: the teacher's."""
    student = Sana(objective.student.config)
    student.load_state_dict(part_of(averaged_weights(folder), STUDENT_TRANSFORMER))
    sprint = replace(
        settings,
        name=f"{settings.name}{SPRINT}",
        steps=STEPS,
        guidance=objective.middle,
        guidance_kind=str(PLAIN),
        solver="scm",
    )
    save_diffusers(
        folder / MODEL,
        transformer=student,
        autoencoder=codec,
        text_encoder=objective.velocity.encoder,
        dtype="float16" if settings.precision == "any" else settings.precision,
        **kept_settings(sprint),
    )
