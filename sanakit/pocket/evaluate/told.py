"""How honest a model is at the prompt: of which prompts it tells that it knows nothing in them.

No image is drawn: what counts is whether `KnownThings.check` finds a prompt unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.words.carriers import asked
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import FIRST_PROMPTS, UNKNOWN_PROMPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.weights.known_things import load_known_things

SEED = 0  # of the ways in which things are requested


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """Shares in [0, 1] of prompts that are told to have nothing known: of `unknown` high, else low."""

    unknown: float  # the 40 prompts without a thing
    first: float  # the 100 first prompts
    asked: float  # the 500 common and further things, each asked for in a way of its own
    languages: Mapping[str, float]  # names of the common things
    missed: tuple[str, ...]  # of the 40, those that were not told


def measure_told(pipe: TextToImage, names: Mapping[str, Mapping[str, str]]) -> Told | None:
    """Measure a model; None where its folder lists no known things. names: language -> concept -> name."""
    known = load_known_things(pipe.settings)
    if known is None:
        return None

    def share(prompts: Iterable[str]) -> float:
        return float(np.mean([known.check(prompt, pipe.text_encoder) is not None for prompt in prompts]))

    random = np.random.default_rng(SEED)
    things = [*COMMON_CONCEPTS.values(), *FURTHER_CONCEPTS.values()]
    return Told(
        unknown=share(UNKNOWN_PROMPTS),
        first=share(FIRST_PROMPTS),
        asked=share([asked(thing, random) for thing in things]),
        languages={code: share(own.values()) for code, own in names.items()},
        missed=tuple(prompt for prompt in UNKNOWN_PROMPTS if not known.check(prompt, pipe.text_encoder)),
    )
