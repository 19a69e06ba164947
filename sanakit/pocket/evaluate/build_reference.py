"""Builds from the data set what `reference.py` reads: run once, its two small files ship.

The basis of the feature space is found on images of concepts that are *not* asked for, so that the measure
knows nothing of those that are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import DataError
from sanakit.eval.networks.efficientnet import EfficientNetLite0, image_features, load_efficientnet
from sanakit.images.image import to_tensor
from sanakit.pocket.data.dataset import OnProgress, PocketImages
from sanakit.pocket.evaluate.recognition import Gallery, fit_basis, project
from sanakit.pocket.evaluate.reference import save_known, save_reference
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.concepts import COMMON_CONCEPTS

# Of 1280; fewer or more recognise real images worse (64: 59 %, 128: 68, 256: 71, 400: 70).
DIRECTIONS = 256
BATCH = 16


def build_reference(
    data: PocketImages,
    folder: str | Path,
    *,
    directions: int = DIRECTIONS,
    progress: OnProgress | None = None,
) -> None:
    """Write gallery and held-out images of a data set into a folder; some minutes of one core.

    directions: kept in the feature space, at most the number of images of other concepts.
    progress: as in `build_pocket`.
    Raises DataError if a common concept has no image or the folder cannot be written, MissingExtraError
    without EfficientNet.
    """
    report = progress or (lambda what, done, total: None)
    model = load_efficientnet()
    concepts = list(COMMON_CONCEPTS)
    asked = [i for i, row in enumerate(data.rows) if row.concept in COMMON_CONCEPTS]
    others = [i for i, row in enumerate(data.rows) if row.concept not in COMMON_CONCEPTS]
    held_out = [i for i, row in enumerate(data.rows) if row.split == "val"]
    absent = COMMON_CONCEPTS.keys() - {data.rows[i].concept for i in asked}
    if absent:
        raise DataError(f"The data set has no image of {', '.join(sorted(absent))}: build it again.")

    mean, basis = fit_basis(_features(model, data.images, others, report, "other concepts"), directions)
    features = _features(model, data.images, asked, report, "common concepts")
    gallery = Gallery(
        mean=mean,
        basis=basis,
        images=project(features, mean, basis),
        labels=torch.tensor([concepts.index(data.rows[i].concept) for i in asked]),
        designs=tuple(data.rows[i].style for i in asked),
        artists=tuple(_artist(data.rows[i].source) for i in asked),
        concepts=tuple(concepts),
    )
    phrases = list(COMMON_CONCEPTS.values())
    save_reference(
        folder,
        gallery,
        np.stack([data.images[i] for i in held_out]),
        prompts=phrases,
        # neighbours in the list are alike, so that each kind of thing is requested in every style
        styled_prompts=[f"{STYLES[i % len(STYLES)].long} of {phrase}" for i, phrase in enumerate(phrases)],
        sources=sorted({f"{data.rows[i].source}, {data.rows[i].licence}" for i in [*asked, *held_out]}),
    )


def build_known(
    data: PocketImages, folder: str | Path, basis: Gallery, *, progress: OnProgress | None = None
) -> None:
    """Write the gallery of all concepts of a data set, in the space of another; two minutes of a core.

    Raises DataError if the folder cannot be written, MissingExtraError without EfficientNet.
    """
    report = progress or (lambda what, done, total: None)
    concepts = list(dict.fromkeys(row.concept for row in data.rows))
    numbers = {concept: i for i, concept in enumerate(concepts)}
    every = list(range(len(data.rows)))
    save_known(
        folder,
        Gallery(
            mean=basis.mean,
            basis=basis.basis,
            images=basis.project(_features(load_efficientnet(), data.images, every, report, "all concepts")),
            labels=torch.tensor([numbers[row.concept] for row in data.rows]),
            designs=tuple(row.style for row in data.rows),
            artists=tuple(_artist(row.source) for row in data.rows),
            concepts=tuple(concepts),
        ),
    )


def _artist(source: str) -> str:
    """Return who drew it: "@a/b@1.2 (Microsoft Fluent Emoji, 3D)" gives "Microsoft Fluent Emoji"."""
    return source[source.index("(") + 1 :].rstrip(")").split(",")[0]


def _features(
    model: EfficientNetLite0, images: np.ndarray, chosen: Sequence[int], report: OnProgress, what: str
) -> Tensor:
    found = []
    for start in range(0, len(chosen), BATCH):
        pixels = np.stack([images[i] for i in chosen[start : start + BATCH]])
        found.append(image_features(model, to_tensor(pixels)))
        report(f"looking at {what}", min(start + BATCH, len(chosen)), len(chosen))
    return torch.cat(found)
