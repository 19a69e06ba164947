"""Pocket's training samples: drawings unchanged, mirrored, turned, recoloured, on five canvases, and composed
scenes. A sample is a description; `render` makes its image, `wording` its words.

The list of samples of a seed is always the same. A `Mix` says what it holds, and how often each kind is
drawn; inside a kind a drawing counts by its concept's fame and its design. Scenes show common things, too, so
that single ones of them are drawn less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from sanakit.pocket.data.canvas import AS_DRAWN, SCALES, SIZES, TURN, Placement, compose, draw_placement
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.recolour import COLOUR_NAMES, is_paintable, recolour
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.words.concepts import COMMON_CONCEPTS, ONE_WAY
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.seeds import numpy_generator

SQUARE = SIZES[0]
PLACEMENTS, SHADES = 4, 7  # which random numbers are theirs
KNOWN, RARE = 1.0, 0.01  # weights of further and other concepts
DESIGNS: Mapping[str, float] = {  # weights of a thing's drawings: those that are alike most
    "fluent-flat": 1.0,
    "fluent-3d": 1.0,
    "noto": 0.7,
    "fluent-color": 0.6,
    "noto-v1": 0.2,
    "fxemoji": 0.12,
}
PAINTED = 2  # other colours of a well-known drawing
SHARES: Mapping[str, float] = {
    "drawn": 0.46,
    "mirrored": 0.08,
    "varied": 0.14,
    "painted": 0.11,
    "scene": 0.16,
    "shaped": 0.05,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """The drawings that pocket learns from, and how often each is shown.

    shares: how often each kind is drawn. famous, rare: weights of a common thing and of a rare one, where a
    further one has 1; 0: left out.
    designs: weights of drawings. varied: moved copies of a well-known drawing; one of another.
    turn, scales: of those, degrees at most, and sides over the canvas's. sizes: of canvases, the square
    first. foreign, posed: shares of captions in another language, and of moved copies' captions that say
    how the thing stands. mirrored_in_scenes: share of the things in scenes that are mirrored.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    famous: float = 0.65
    rare: float = RARE
    designs: Mapping[str, float] = field(default_factory=lambda: DESIGNS)
    varied: int = 2
    turn: float = TURN
    scales: tuple[float, float] = SCALES
    sizes: tuple[tuple[int, int], ...] = SIZES
    foreign: float = 0.1
    posed: float = 0.0
    mirrored_in_scenes: float = 0.0


FIRST_MIX = Mix()
"""What pocket's drawings began with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PocketSample:
    """One image to learn from.

    kind: of SHARES. row: in the data set, -1 for a scene. scene: its number, -1 for a single thing.
    colour: of COLOUR_NAMES, where it was painted. size: width and height in px. weight: how often it is drawn
    within its kind.
    """

    kind: str
    weight: float
    row: int = -1
    scene: int = -1
    colour: str | None = None
    placement: Placement = AS_DRAWN
    size: tuple[int, int] = SQUARE


def fame(concept: str, mix: Mix = FIRST_MIX) -> float:
    """Return how often a concept is drawn, compared with others."""
    return mix.famous if concept in COMMON_CONCEPTS else KNOWN if concept in FURTHER_CONCEPTS else mix.rare


def list_samples(
    pocket: PocketImages, scenes: int, seed: int = 0, mix: Mix = FIRST_MIX
) -> list[PocketSample]:
    """List all samples of a data set. scenes: how many."""
    square, *shapes = mix.sizes
    samples: list[PocketSample] = []
    random = numpy_generator(seed, PLACEMENTS)
    for row, one in enumerate(pocket.rows):
        well_known = fame(one.concept, mix) > mix.rare
        weight = fame(one.concept, mix) * mix.designs.get(one.style, 0.0)
        if not weight or (one.split != "train" and not well_known):
            continue
        plain = PocketSample(kind="drawn", weight=weight, row=row, size=square)
        samples.append(plain)
        if one.concept not in ONE_WAY:
            samples.append(replace(plain, kind="mirrored", placement=Placement(flip=True)))
        for _ in range(mix.varied if well_known else 1):
            placement = draw_placement(random, untouched=0, turn=mix.turn, scales=mix.scales)
            samples.append(replace(plain, kind="varied", placement=_as_one_may(one.concept, placement)))
        if not well_known:
            continue
        if is_paintable(one.concept, one.group, one.subgroup):
            colours = random.choice(COLOUR_NAMES, PAINTED, replace=False)
            samples += [replace(plain, kind="painted", colour=str(colour)) for colour in colours]
        for shape in shapes:
            if random.random() < 0.5:
                placement = _as_one_may(one.concept, draw_placement(random, untouched=0.4))
                samples.append(replace(plain, kind="shaped", placement=placement, size=shape))
    samples += [PocketSample(kind="scene", weight=1.0, scene=i, size=square) for i in range(scenes)]
    return samples


def _as_one_may(concept: str, placement: Placement) -> Placement:
    """Return a placement without the mirroring that would make another thing of the concept."""
    return replace(placement, flip=False) if concept in ONE_WAY else placement


class Weighted(Protocol):
    """A sample of some kind, and how often it is drawn within its kind."""

    @property
    def kind(self) -> str:
        """Its kind."""
        ...

    @property
    def weight(self) -> float:
        """How often it is drawn."""
        ...


def draw_chances(samples: Sequence[Weighted], shares: Mapping[str, float] = SHARES) -> np.ndarray:
    """Return how often each sample is drawn, N, summing up to 1; kinds that are missing leave their share."""
    weights = np.array([sample.weight for sample in samples])
    kinds = np.array([sample.kind for sample in samples])
    for kind, share in shares.items():
        own = kinds == kind
        if own.any():
            weights[own] *= share / weights[own].sum()
    return weights / weights.sum()


def render(sample: PocketSample, pocket: PocketImages, scenes: Scenes) -> np.ndarray:
    """Return a sample's image, H W 3 uint8."""
    if sample.scene >= 0:
        return scenes[sample.scene]
    image, alpha = np.asarray(pocket.images[sample.row]), np.asarray(pocket.alpha[sample.row])
    if sample.colour is not None:
        image = recolour(image, alpha, sample.colour, numpy_generator(SHADES, sample.row))
    return compose(image, alpha, *sample.size, sample.placement)


def by_size(samples: Sequence[PocketSample]) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Yield each size with the indices of its samples."""
    for size in dict.fromkeys(sample.size for sample in samples):
        yield size, [i for i, sample in enumerate(samples) if sample.size == size]
