"""From a finished model to one that knows names in other languages: the run of `pocket-names`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sanakit.errors import SettingsError
from sanakit.models.gemma2 import Gemma2
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.data.samples import PocketSample
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.toy import is_toy, toy_names
from sanakit.pocket.data.wording import Wording
from sanakit.pocket.train.drawings import names_by_language
from sanakit.pocket.train.foreign import TEXT, ForeignObjective, foreign_list, with_model
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.known_things import ask_for, known_things
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.weights import (
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import kept_settings

WATCHED = ("de", "es", "fr", "zh")
SCENES, IN_SCENES = 4000, 0.4  # composed ones whose captions are kept, and their share of the kept captions
FURTHER_WEIGHT, RARE_WEIGHT = 0.5, 0.03  # of their names, where a common thing's count 1


def names_run(
    data: Path, output: Path, source: str | os.PathLike[str], config: TrainConfig, *, kept: float
) -> Run:
    """Fit the text encoder of a model like pocket to foreign names; `output`/model is that model with it.

    kept: share of the texts that are English captions, whose features stay.
    Raises DataError without a data set or its packages, SettingsError for a quantised model.
    """
    check_trainable(source)
    pocket = open_pocket(data)
    names = toy_names() if is_toy(data) else names_by_language(data)
    concepts = {row.concept: row for row in pocket.rows}
    names = {concept: own for concept, own in names.items() if concept in concepts}
    listed, left_out = foreign_list(names, _weight)
    if not listed:
        raise SettingsError(f"{data} has no names in other languages: build it by `sana data pocket`.")
    encoder = load_text_encoder(source, device=training_device(), dtype="float32")
    wording, scenes = Wording({}), Scenes(pocket, SCENES)
    chances = np.array([_weight(row.concept) for row in pocket.rows])
    sums = (chances / chances.sum()).cumsum()

    def caption(random: np.random.Generator) -> str:
        if random.random() < IN_SCENES:
            return wording.scene(scenes.scene(int(random.integers(SCENES))), random)
        row = pocket.rows[min(int(np.searchsorted(sums, random.random())), len(sums) - 1)]
        return wording.single(PocketSample(kind="drawn", weight=1.0), row, random)

    torch.manual_seed(config.seed)
    objective = ForeignObjective(
        encoder,
        listed,
        caption,
        kept=kept,
        things={concept: ask_for(concept) for concept in concepts},
        watched=_watched(names),
        seed=config.seed,
    )

    def finish(folder: Path) -> None:
        model = Gemma2(encoder.model.config)
        fill_averaged(model, folder, partial(part_of, name=TEXT))
        taught, kept_ones = with_model(encoder, model), kept_settings(load_settings(source))
        foreign = {concept: list(own.values()) for concept, own in names.items()}
        kept_ones["known_things"] = known_things(concepts, taught, foreign)
        save_diffusers(
            folder / MODEL,
            transformer=load_transformer(source, kind="image", dtype="float32"),
            autoencoder=load_image_autoencoder(source, part="both", dtype="float32"),
            text_encoder=taught,
            dtype=torch.float16,
            **kept_ones,
        )

    note = f"{len(listed):,} names are learned; {left_out} are English names of another thing and left out."
    made_with = MadeWith(
        source=source, data=data, content=pocket.fingerprint, choices={"kept": kept, "names": len(listed)}
    )
    return Run(objective, config, finish, (note,), made_with)


def _weight(concept: str) -> float:
    if concept in COMMON_CONCEPTS:
        return 1.0
    return FURTHER_WEIGHT if concept in FURTHER_CONCEPTS else RARE_WEIGHT


def _watched(names: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return names of well-known things by language code."""
    well_known = [concept for concept in (*COMMON_CONCEPTS, *FURTHER_CONCEPTS) if concept in names]
    found = {
        code: {concept: names[concept][code] for concept in well_known if code in names[concept]}
        for code in WATCHED
    }
    return {code: own for code, own in found.items() if own}
