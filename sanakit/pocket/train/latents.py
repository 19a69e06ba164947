"""Pocket's training data as latents: images of the data set and composed scenes, with their captions.

Shapes: N images and scenes, C H W a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.models.dc_ae import DCAE
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.encoding import encode_images
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.words.concepts import COMMON_CONCEPTS

LEFT_OUT = ("people & body", "symbols")  # groups whose uncommon things are too many or too alike to learn
WATCHED = 128  # scenes of held-out combinations, to measure on
WATCHED_SEED = 1


@dataclass(frozen=True, slots=True)
class Mixture:
    """How a set is drawn from. common_share: part of the pictures' draws that goes to the common things.

    scenes: how many are composed, from seed 0 on. scene_share: part of all draws that goes to them.
    """

    common_share: float
    scenes: int = 0
    scene_share: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """Latents with their captions."""

    latents: Tensor  # N C H W, unscaled
    captions: list[Sequence[str]]  # N


@dataclass(frozen=True, slots=True, eq=False)
class PocketSet:
    """The training samples, and those that are only measured."""

    drawn: Latents
    weights: Tensor  # N, how often each is drawn
    held_out: Latents | None  # scenes of combinations that are not drawn, where scenes are


def encode_set(pocket: PocketImages, codec: DCAE, mixture: Mixture) -> PocketSet:
    """Encode images and scenes of a data set, on the codec's device."""
    chosen, weights = drawn_images(pocket, mixture.common_share)
    latents = [encode_images(codec, pocket.images[chosen])]
    captions: list[Sequence[str]] = [pocket.rows[i].captions for i in chosen]
    if not mixture.scenes:
        return PocketSet(Latents(latents[0], captions), weights, None)
    scenes = Scenes(pocket, mixture.scenes)
    watched = Scenes(pocket, min(WATCHED, mixture.scenes), WATCHED_SEED, held_out=True)
    latents.append(encode_images(codec, scenes))
    share = mixture.scene_share
    chances = torch.full((mixture.scenes,), share / mixture.scenes, dtype=torch.double)
    return PocketSet(
        Latents(torch.cat(latents), captions + [scenes.scene(i).captions for i in range(len(scenes))]),
        torch.cat([(1 - share) * weights, chances]),
        Latents(encode_images(codec, watched), [watched.scene(i).captions for i in range(len(watched))]),
    )


def drawn_images(pocket: PocketImages, common_share: float) -> tuple[list[int], Tensor]:
    """Indices of the images to train on, and how often each is drawn."""
    chosen = [
        i
        for i, row in enumerate(pocket.rows)
        if row.split == "train" and (row.concept in COMMON_CONCEPTS or row.group not in LEFT_OUT)
    ]
    common = torch.tensor([pocket.rows[i].concept in COMMON_CONCEPTS for i in chosen])
    shares = (common_share / common.sum(), (1 - common_share) / (~common).sum().clamp(min=1))
    return chosen, torch.where(common, *shares).double()
