"""Results for new users: the first prompts they type, further things, colours, languages, seeds and sizes.

Recognised is an image whose concept is nearest among all that pocket knows (top-1) or among the five nearest
(top-5), in the space of `recognition`. A first prompt has several right answers; the nearest of them counts.
Every figure is of images drawn by the model at its own defaults, from fixed seeds.
Shapes: B images, C concepts, F features.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.eval.networks.efficientnet import EfficientNetLite0, image_features, load_efficientnet
from sanakit.images.image import to_levels
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.data.recolour import main_colour
from sanakit.pocket.evaluate.recognition import Gallery, Shares
from sanakit.pocket.evaluate.reference import load_known, load_names, load_reference
from sanakit.pocket.evaluate.report import BATCH, OnProgress
from sanakit.pocket.evaluate.told import Told, measure_told
from sanakit.pocket.words.carriers import coloured
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import FIRST_PROMPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS

SEEDS = 2  # of each first prompt
VARIED_PROMPTS, VARIED_SEEDS = 50, 4
ASKED_COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "orange", "black")
COLOURED = 12  # things, in five colours each
SIZES = {"512x512": (512, 512), "352x192": (352, 192)}
FIRST_SEED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstPromptFigures:
    """Shares in [0, 1]; `variety` is a mean distance between seeds, in units of that between prompts."""

    first: Shares
    further: Shares
    colour: float
    languages: Mapping[str, Shares]
    variety: float
    sizes: Mapping[str, Shares]
    missed: tuple[str, ...]  # first prompts that were not recognised with either seed
    told: Told | None = None  # what is told of prompts; None: the model lists no known things


def evaluate_first_prompts(
    model: str | os.PathLike[str] = "pocket", progress: OnProgress = lambda what, done, total: None
) -> FirstPromptFigures:
    """Measure a model like pocket on what new users ask for; takes minutes on one core.

    model: catalog name or diffusers folder. Raises MissingExtraError without EfficientNet, DataError for
    damaged reference images, and what loading a model raises.
    """
    reference = load_reference()
    pipe = TextToImage.from_pretrained(model)
    evaluation = FirstPromptEvaluation(pipe, load_efficientnet(), load_known(reference), progress)
    return evaluation.all(load_names())


class FirstPromptEvaluation:
    """Measures a model against the gallery of all known things."""

    def __init__(
        self,
        pipe: TextToImage,
        network: EfficientNetLite0,
        known: Gallery,
        progress: OnProgress = lambda what, done, total: None,
    ) -> None:
        self.pipe, self.network, self.known, self.progress = pipe, network, known, progress
        self._number = {concept: i for i, concept in enumerate(known.concepts)}
        self._common = torch.tensor([concept in COMMON_CONCEPTS for concept in known.concepts])
        further = torch.tensor([concept in FURTHER_CONCEPTS for concept in known.concepts])
        self._well_known = self._common | further

    def all(self, names: Mapping[str, Mapping[str, str]]) -> FirstPromptFigures:
        """Measure everything. names: language -> concept -> its name there."""
        first, missed = self.first()
        return FirstPromptFigures(
            first=first,
            further=self.further(),
            colour=self.colour(),
            languages={code: self.named(own) for code, own in names.items()},
            variety=self.variety(),
            sizes={name: self.sized(*size) for name, size in SIZES.items()},
            missed=missed,
            told=measure_told(self.pipe, names),
        )

    def first(self) -> tuple[Shares, tuple[str, ...]]:
        """Draw the first prompts; return shares and the prompts that no seed got right."""
        ranks = torch.stack(
            [
                self._ranks(
                    list(FIRST_PROMPTS), list(FIRST_PROMPTS.values()), FIRST_SEED * (1 + seed), "first"
                )
                for seed in range(SEEDS)
            ]
        )
        lost = [prompt for prompt, rank in zip(FIRST_PROMPTS, ranks.amin(0).tolist(), strict=True) if rank]
        return Shares.of(ranks.flatten()), tuple(lost)

    def further(self) -> Shares:
        """Draw the 300 further things; they are looked up among the 500 that are common or further."""
        answers = [{concept} for concept in FURTHER_CONCEPTS]
        return Shares.of(
            self._ranks(list(FURTHER_CONCEPTS.values()), answers, 0, "further", among=self._well_known)
        )

    def colour(self) -> float:
        """Draw things in other colours; return the share whose main colour is the one requested."""
        things = list(COMMON_CONCEPTS.values())[:: len(COMMON_CONCEPTS) // COLOURED][:COLOURED]
        asked = [
            (coloured(thing, colour), colour)
            for i, thing in enumerate(things)
            for colour in np.roll(ASKED_COLOURS, i)[:5].tolist()
        ]
        pictures = self._draw([prompt for prompt, _ in asked], 0, "colours")
        right = [
            main_colour(one.numpy()) == colour
            for one, (_, colour) in zip(to_levels(pictures), asked, strict=True)
        ]
        return float(np.mean(right))

    def named(self, names: Mapping[str, str]) -> Shares:
        """Draw common things by their names in another language; they are looked up among the common ones."""
        own = {concept: name for concept, name in names.items() if concept in COMMON_CONCEPTS}
        answers = [{one} for one in own]
        return Shares.of(self._ranks(list(own.values()), answers, 0, "languages", among=self._common))

    def variety(self) -> float:
        """Return the mean feature distance between seeds of a prompt, over that between prompts."""
        prompts = list(COMMON_CONCEPTS.values())[:: len(COMMON_CONCEPTS) // VARIED_PROMPTS][:VARIED_PROMPTS]
        points = torch.stack(
            [
                F.normalize(
                    image_features(self.network, self._draw(prompts, 7000 * (1 + seed), "variety")), dim=1
                )
                for seed in range(VARIED_SEEDS)
            ]
        )  # seeds prompts F
        within = [1 - (points[i] * points[j]).sum(1).mean() for i in range(VARIED_SEEDS) for j in range(i)]
        between = [1 - (one * one.roll(k, 0)).sum(1).mean() for one in points for k in (1, 7, 19)]
        return float(torch.stack(within).mean() / torch.stack(between).mean())

    def sized(self, width: int, height: int) -> Shares:
        """Draw every second common thing at another size; looked up among the common ones."""
        chosen = dict(list(COMMON_CONCEPTS.items())[::2])
        answers = [{concept} for concept in chosen]
        return Shares.of(
            self._ranks(
                list(chosen.values()),
                answers,
                0,
                f"{width}x{height}",
                among=self._common,
                width=width,
                height=height,
            )
        )

    def _ranks(
        self,
        prompts: Sequence[str],
        answers: Sequence[frozenset[str] | set[str]],
        seed: int,
        what: str,
        *,
        among: Tensor | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> Tensor:
        """Return how many wrong concepts are as near to each prompt's image as its nearest right one; B."""
        pictures = self._draw(prompts, seed, what, width=width, height=height)
        side = min(pictures.shape[-2:])
        top, left = (pictures.shape[-2] - side) // 2, (pictures.shape[-1] - side) // 2
        square = pictures[..., top : top + side, left : left + side]
        similarity = self.known.similarity(self.known.project(image_features(self.network, square)))
        if among is not None:
            similarity = similarity.masked_fill(~among, -torch.inf)
        ranks = []
        for row, right in zip(similarity, answers, strict=True):
            own = [self._number[concept] for concept in right if concept in self._number]
            wrong = torch.ones(len(row), dtype=torch.bool)
            wrong[own] = False
            ranks.append((row[wrong] >= row[own].max()).sum())
        return torch.stack(ranks)

    def _draw(
        self,
        prompts: Sequence[str],
        seed: int,
        what: str,
        *,
        width: int | None = None,
        height: int | None = None,
    ) -> Tensor:
        """Draw prompts, the first from `seed`, the next from one more ...; B 3 H W in [-1, 1]."""
        pictures = []
        for start in range(0, len(prompts), BATCH):
            some = list(prompts[start : start + BATCH])
            with warnings.catch_warnings(action="ignore"):  # what is told is measured apart
                images = self.pipe(some, seed=seed + start, output="pt", width=width, height=height).images
            pictures.append(torch.as_tensor(images).float().cpu())  # pyright: ignore[reportArgumentType]
            self.progress(f"drawing ({what})", min(start + BATCH, len(prompts)), len(prompts))
        return torch.cat(pictures)
