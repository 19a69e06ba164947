"""A gallery of three things, red, green and blue, and a network that sees an image's mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor

from sanakit.pocket.evaluate.recognition import Gallery
from sanakit.pocket.evaluate.reference import PocketReference


def use_colours(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    *,
    concepts: Sequence[str],
    prompts: Sequence[str],
    styled: Sequence[str],
) -> None:
    """Have an evaluation's module look things up in that gallery; three of each."""
    gallery = Gallery(
        mean=torch.full((3,), -1.0),
        basis=torch.eye(3),
        images=torch.eye(3),
        labels=torch.arange(3),
        designs=("x",) * 3,
        artists=("x",) * 3,
        concepts=tuple(concepts),
    )
    reference = PocketReference(
        gallery=gallery,
        prompts=tuple(prompts),
        styled_prompts=tuple(styled),
        held_out=torch.zeros(0, 3, 256, 256),
        sources=(),
    )

    def colours(_: object, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    monkeypatch.setattr(module, "load_reference", lambda: reference)
    monkeypatch.setattr(module, "load_efficientnet", lambda: None)
    monkeypatch.setattr(module, "image_features", colours)
