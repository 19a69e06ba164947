"""A made-up data set in the form of pocket's: plain shapes under the names of things, made in a second.

For trying the recipes from end to end where neither npm nor the renderer is at hand. Nothing that was trained
on it can draw.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sanakit.pocket.data.dataset import ALPHA, FORMAT, IMAGES, ROWS, SOURCES, PocketRow
from sanakit.pocket.data.sources import SIZE
from sanakit.pocket.words.captions import STYLES, captions_of
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS
from sanakit.pocket.words.teaching.vocabulary import WIDTH, Vocabulary
from sanakit.text.known_things import bare_name
from sanakit.whole import written_whole

THINGS = 24
HELD_OUT = ("abacus", "anvil")  # names of things that are not common


def is_toy(folder: Path) -> bool:
    """Tell whether a data set is made up."""
    manifest = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    return not manifest["packages"]


def toy_vocabulary() -> Vocabulary:
    """Return the names of the common things at random places: nothing is fetched, nothing is meant."""
    texts = list(dict.fromkeys(bare_name(phrase) for phrase in COMMON_CONCEPTS.values()))
    concepts = {bare_name(phrase): concept for concept, phrase in COMMON_CONCEPTS.items()}
    places = np.random.default_rng(0).normal(size=(len(texts), WIDTH)).astype(np.float32)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    return Vocabulary(
        texts=texts,
        places=places,
        languages=["en"] * len(texts),
        things=list(range(len(texts))),
        concepts=[concepts[text] for text in texts],
        longer=[f"a small {text}" for text in texts],
        longer_places=places,
    )


def toy_names() -> dict[str, dict[str, str]]:
    """Return names of the common things in a made-up language, by the code of German."""
    return {concept: {"de": bare_name(phrase)[::-1]} for concept, phrase in COMMON_CONCEPTS.items()}


def build_toy(folder: Path) -> Path:
    """Write discs and squares in colours of their own, four sizes as the four styles, into a new folder."""
    rows, images, alphas = [], [], []
    y, x = np.abs(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2)
    for number, concept in enumerate([*SCENE_CONCEPTS[:THINGS], *HELD_OUT]):
        for size, style in enumerate(STYLES):
            side = 70 + 12 * size
            shape = np.maximum(x, y) < side if number % 2 else x**2 + y**2 < side**2
            colour = np.array([37 * number % 230, 91 * number % 230, 151 * number % 230], np.uint8)
            images.append(np.where(shape[..., None], colour, np.uint8(255)))
            alphas.append(np.uint8(255) * shape)
            rows.append(
                PocketRow(
                    name=concept,
                    concept=concept,
                    hex=f"{number:04x}",
                    style=style.name,
                    style_tag=style.tag,
                    group="objects",
                    subgroup="shapes",
                    captions=captions_of(concept, [], style),
                    licence="Apache-2.0",
                    source="made up",
                    split="val" if concept in HELD_OUT else "train",
                )
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "images": len(rows), "packages": []}
    with written_whole(folder) as partial:
        partial.mkdir()
        np.save(partial / IMAGES, np.stack(images))
        np.save(partial / ALPHA, np.stack(alphas))
        (partial / ROWS).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
        (partial / SOURCES).write_text(json.dumps(about), encoding="utf-8")
    return folder
