"""Go on from a finished model: change its transformer (grow it, prune it) and train it further.

Latents, scale and decoder are the model's own, so that the result is that model with another transformer and
a text encoder that was trained along with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sanakit.data.pocket import open_pocket
from sanakit.data.pocket_concepts import COMMON_CONCEPTS
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.flow_matching import FlowMatchingObjective
from sanakit.train.parallel import training_device
from sanakit.train.pocket import (
    MODEL,
    Run,
    averaged_weights,
    compile_blocks,
    drawn_pictures,
    encode_pictures,
)
from sanakit.weights import (
    load_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.export import DEFAULTS
from sanakit.weights.settings import ModelSettings

Change = Callable[[FlowMatchingObjective], Sana]
"""Gives the transformer to train, made from the objective's, which holds the finished model."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A finished model and the pictures in its own latents, ready for any number of runs."""

    source: str | os.PathLike[str]
    settings: ModelSettings
    codec: DCAE
    latents: Tensor  # N C H W, scaled
    captions: list[Sequence[str]]  # N
    weights: Tensor  # N, how often each picture is drawn


def prepare(data: Path, source: str | os.PathLike[str], *, common_share: float) -> Prepared:
    """Encode the pictures of the pocket data set with a finished model's autoencoder.

    source: pocket, or the folder of a model that its recipe wrote. common_share: part of the draws that goes
    to the common things. Raises DataError for the data set, and what loading a model raises.
    """
    pocket = open_pocket(data)
    settings = load_settings(source)
    codec = load_autoencoder(source, part="both", device=training_device(), dtype="float32")
    chosen, weights = drawn_pictures(pocket, common_share)
    latents = encode_pictures(codec, pocket.images[chosen]) * codec.config.scaling_factor
    return Prepared(source, settings, codec, latents, [pocket.rows[i].captions for i in chosen], weights)


def further_run(prepared: Prepared, config: TrainConfig, change: Change, *, suffix: str) -> Run:
    """Train a finished model further, its transformer changed.

    suffix: follows the model's name in that of the result. Raises what loading a model raises.
    """
    torch.manual_seed(config.seed)
    settings, codec, scale = prepared.settings, prepared.codec, prepared.codec.config.scaling_factor
    device = prepared.latents.device
    encoder = load_text_encoder(prepared.source, device=device, dtype="float32")
    finished = load_transformer(prepared.source, device=device, dtype="float32")

    def objective_of(transformer: Sana) -> FlowMatchingObjective:
        return FlowMatchingObjective(
            transformer.train().requires_grad_(True),
            encoder.model.train().requires_grad_(True),
            encoder.tokenizer,
            prepared.latents,
            prepared.captions,
            prepared.weights,
            seed=config.seed,
            shift=settings.flow_shift,
            sheet_prompts=list(COMMON_CONCEPTS.values())[::6],
            sheet_guidance=settings.guidance,
            sheet_steps=settings.steps,
            decode=lambda z: torch.cat([codec.decode(part / scale) for part in z.split(8)]),
        )

    transformer = change(objective_of(finished))
    if config.compile:
        compile_blocks(transformer)
    objective = objective_of(transformer)

    def finish(folder: Path) -> None:
        objective.model.load_state_dict(averaged_weights(folder))
        trained, text = objective.parts(objective.model)
        save_diffusers(
            folder / MODEL,
            transformer=trained,
            autoencoder=codec,
            text_encoder=TextEncoder(text.model, text.tokenizer),
            flow_shift=settings.flow_shift,
            defaults={name: getattr(settings, name) for name in DEFAULTS},
            dtype=torch.float16,
            name=f"{settings.name}-{suffix}",
            licence=settings.licence,
        )

    return Run(objective, config, finish)
