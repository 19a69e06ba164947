"""Shares of prompts that are told, on a pipeline whose encoder places every text by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from sanakit.pocket.evaluate.told import measure_told
from sanakit.pocket.words.asked_as import asked_as
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.known_things import known_things
from sanakit.text.encoder import TextEncoder
from sanakit.text.known_things import FILE
from sanakit.weights.settings import ModelSettings

CONCEPTS = list(dict.fromkeys([*COMMON_CONCEPTS, *FURTHER_CONCEPTS, *asked_as().values()]))
NAMES = {"de": {"dog": "Hund", "cat": "Katze"}, "xx": {"dog": "qwx", "cat": "a cat"}}


class Toy:
    """A TextEncoder's stand-in: every text has a place of its own; a German name that of its thing."""

    def encode(self, prompts: Sequence[str], notes: list[str] | None = None) -> list[Tensor]:
        return [self._place({"hund": "a dog", "katze": "a cat"}.get(text, text))[None] for text in prompts]

    def _place(self, text: str) -> Tensor:
        seed = sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31
        return torch.randn(128, generator=torch.Generator().manual_seed(seed))


def pipe(folder: Path | None) -> Any:
    settings = ModelSettings(name="toy", known_things=folder and folder / FILE)
    return SimpleNamespace(settings=settings, text_encoder=Toy())


def test_words_alone_tell_the_unknown_and_none_of_the_known(tmp_path: Path) -> None:
    known = known_things(CONCEPTS, cast("TextEncoder", Toy()))
    (tmp_path / FILE).write_text(known.text(), encoding="utf-8")
    found = measure_told(pipe(tmp_path), NAMES)
    assert found is not None
    assert found.unknown >= 0.9
    assert "the square root of minus one" in found.missed  # its square is a thing
    assert len(found.missed) == round(40 * (1 - found.unknown))
    assert (found.first, found.asked) == (0.0, 0.0)
    assert found.languages == {"de": 0.0, "xx": 0.5}  # by its place; by its words


def test_a_model_without_the_file_is_not_measured() -> None:
    assert measure_told(pipe(None), NAMES) is None
