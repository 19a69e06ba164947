"""Go on from a finished model: change its transformer (grow it, prune it) and train it further.

Latents, scale, decoder and text encoder are the model's own and frozen: the result is that model with another
transformer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sanakit.models.dc_ae import DCAE
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.train.latents import Mixture, PocketSet, encode_set
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.latents import LatentFeed
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, averaged_parts, compile_blocks
from sanakit.weights import (
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import kept_settings
from sanakit.weights.settings import ModelSettings

WATCHED = 128  # of the latents drawn most often, to measure on
Change = Callable[[VelocityObjective], VelocityObjective]
"""Makes the objective that is trained from that of the finished model, by its `with_transformer`."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A finished model and the images in its own latents, ready for any number of runs."""

    source: str | os.PathLike[str]
    settings: ModelSettings
    codec: DCAE
    learned: PocketSet
    made_with: MadeWith


def prepare(data: Path, source: str | os.PathLike[str], mixture: Mixture) -> Prepared:
    """Encode the images of the pocket data set, and scenes of them, with a finished model's autoencoder.

    source: pocket, or the folder of a model that its recipe wrote. mixture: of what is drawn.
    Raises DataError for the data set, SettingsError for a quantised model, and what loading a model raises.
    """
    check_trainable(source)
    pocket = open_pocket(data)
    settings = load_settings(source)
    codec = load_image_autoencoder(source, part="both", device=training_device(), dtype="float32")
    made_with = MadeWith(source=source, data=data, content=pocket.fingerprint, choices=asdict(mixture))
    return Prepared(source, settings, codec, encode_set(pocket, codec, mixture), made_with)


def further_run(prepared: Prepared, config: TrainConfig, change: Change, *, name: str | None = None) -> Run:
    """Train a finished model further, its transformer changed.

    name: of the result; None: the model's own. Raises what loading a model raises.
    """
    torch.manual_seed(config.seed)
    settings, codec, scale = prepared.settings, prepared.codec, prepared.codec.config.scaling_factor
    learned, device = prepared.learned, prepared.learned.drawn.latents.device
    encoder = load_text_encoder(prepared.source, device=device, dtype="float32")
    finished = load_transformer(prepared.source, kind="image", device=device, dtype="float32")
    feed = LatentFeed(
        learned.drawn.latents * scale, learned.drawn.captions, learned.weights, seed=config.seed
    )
    watched = [Watched("", *feed.most_drawn(WATCHED))]
    prompts = list(COMMON_CONCEPTS.values())[::6]
    if learned.held_out is not None:
        first = [captions[0] for captions in learned.held_out.captions]
        watched.append(Watched("held_out_", learned.held_out.latents * scale, first))
        prompts = [*prompts[::2], *first[:17]]  # half of the sheet for scenes
    objective = change(
        VelocityObjective(
            finished,
            encoder,
            feed,
            shift=settings.flow_shift,
            seed=config.seed,
            watched=watched,
            sheet=Sheet(
                prompts=prompts,
                guidance=settings.guidance,
                steps=settings.steps,
                shape=tuple(learned.drawn.latents.shape[1:]),
                decode=lambda z: torch.cat([codec.decode(part / scale) for part in z.split(8)]),
            ),
        )
    )
    if config.compile:
        compile_blocks(objective.transformer)

    def finish(folder: Path) -> None:
        trained, text = averaged_parts(folder, objective)
        save_diffusers(
            folder / MODEL,
            transformer=trained,
            autoencoder=codec,
            text_encoder=text,
            dtype=torch.float16,
            **kept_settings(replace(settings, name=name or settings.name)),
        )

    return Run(objective, config, finish, made_with=prepared.made_with)
