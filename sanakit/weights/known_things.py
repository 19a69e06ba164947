"""A model's known things, read once a process, and what is told of prompts that have none of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from sanakit.models.contracts import TextModel
from sanakit.text.known_things import KnownThings
from sanakit.weights.find.catalog import CATALOG, CLIP_MODELS
from sanakit.weights.settings import ModelSettings


def load_known_things(settings: ModelSettings) -> KnownThings | None:
    """Return what a model draws; None where its folder does not say. Raises WeightsError if it is damaged."""
    path = settings.known_things
    return None if path is None else _read(path, path.stat().st_mtime_ns if path.exists() else 0)


def unknown_prompts(settings: ModelSettings, prompts: Sequence[str], encoder: TextModel) -> list[str]:
    """Return a sentence for each prompt, once, in which nothing is near a thing that the model knows.

    encoder: of the same model. Empty prompts ask for nothing. Raises as `load_known_things` does.
    """
    known = load_known_things(settings)
    if known is None:
        return []
    hint = f" Try: sana models {settings.name}" if settings.name in {*CATALOG, *CLIP_MODELS} else ""
    found = (known.check(prompt, encoder) for prompt in dict.fromkeys(prompts))
    return [f"{unknown.sentence(settings.name)}{hint}" for unknown in found if unknown]


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> KnownThings:
    """Read a file again when it was changed. Its instance is shared: it keeps an encoder's features."""
    return KnownThings.read(path)
