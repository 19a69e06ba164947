"""What first prompts get is measured right: shown on a pipeline that draws what it is told to."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.pocket.data.recolour import PAINTS
from sanakit.pocket.evaluate import first_prompts
from sanakit.pocket.evaluate.first_prompts import FirstPromptEvaluation
from sanakit.pocket.evaluate.recognition import Gallery
from sanakit.pocket.evaluate.reference import load_names
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import FIRST_PROMPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS

CONCEPTS = tuple(
    dict.fromkeys(
        [
            *COMMON_CONCEPTS,
            *FURTHER_CONCEPTS,
            *(one for right in FIRST_PROMPTS.values() for one in sorted(right)),
        ]
    )
)
SIDE = 8
Drawn = Callable[[str, int], Tensor]


def vector(concept: str) -> Tensor:
    return F.normalize(
        torch.randn(3 * SIDE * SIDE, generator=torch.Generator().manual_seed(zlib.crc32(concept.encode()))),
        dim=0,
    )


def known() -> Gallery:
    return Gallery(
        mean=torch.zeros(3 * SIDE * SIDE),
        basis=torch.eye(3 * SIDE * SIDE),
        images=torch.stack([vector(concept) for concept in CONCEPTS]),
        labels=torch.arange(len(CONCEPTS)),
        designs=("one",) * len(CONCEPTS),
        artists=("one",) * len(CONCEPTS),
        concepts=CONCEPTS,
    )


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Drawn], FirstPromptEvaluation]:
    """Measures a pipeline whose image of a prompt and a seed is given; an image is its own feature."""
    monkeypatch.setattr(first_prompts, "image_features", lambda network, images: images.flatten(1))

    def make(drawn: Drawn) -> FirstPromptEvaluation:
        def pipe(prompts: list[str], *, seed: int, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(
                images=torch.stack([drawn(one, seed + i) for i, one in enumerate(prompts)])
            )

        return FirstPromptEvaluation(cast(Any, pipe), cast(Any, None), known())

    return make


def of(concept: str) -> Tensor:
    return vector(concept).view(3, SIDE, SIDE)


def test_right_answers_count_whichever_of_them_is_drawn(measure):
    shares, missed = measure(lambda prompt, seed: of(sorted(FIRST_PROMPTS[prompt])[-1])).first()
    assert (shares.top1, shares.top5) == (1.0, 1.0)
    assert missed == ()


def test_wrong_images_are_not_recognised_and_named(measure):
    wrong = "toilet"
    assert not any(wrong in right for right in FIRST_PROMPTS.values())
    shares, missed = measure(lambda prompt, seed: of(wrong)).first()
    assert shares.top1 == 0
    assert set(missed) == set(FIRST_PROMPTS)


def test_a_prompt_that_one_seed_gets_right_counts_half_and_is_not_missed(measure):
    def half(prompt: str, seed: int) -> Tensor:
        return of(sorted(FIRST_PROMPTS[prompt])[0] if seed < 2000 else "toilet")

    shares, missed = measure(half).first()
    assert shares.top1 == pytest.approx(0.5)
    assert missed == ()


def test_further_things_and_names_are_looked_up_by_their_concept(measure):
    by_phrase = {phrase: concept for concept, phrase in FURTHER_CONCEPTS.items()}
    assert measure(lambda prompt, seed: of(by_phrase[prompt])).further().top1 == 1
    for names in load_names().values():
        by_name = {name: concept for concept, name in names.items()}
        right = sum(names[by_name[name]] == name for name in names.values()) / len(names)
        assert measure(lambda prompt, seed, by=by_name: of(by[prompt])).named(names).top1 >= 0.95 * right


def test_a_thing_has_the_colour_that_it_was_asked_in(measure):
    def disc(prompt: str, colour: str | None = None) -> Tensor:
        name = colour or next(name for name in first_prompts.ASKED_COLOURS if name in prompt.split())
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        inside = (x - 32) ** 2 + (y - 32) ** 2 < 400
        shade = torch.tensor(PAINTS[name].rgb).view(3, 1, 1) / 127.5 - 1
        return torch.where(inside, shade, torch.ones(3, 64, 64))

    assert measure(lambda prompt, seed: disc(prompt)).colour() == 1
    assert measure(lambda prompt, seed: disc(prompt, "green")).colour() < 0.3


def test_variety_is_nothing_where_seeds_do_not_matter_and_one_where_prompts_do_not(measure):
    same = measure(lambda prompt, seed: of(prompt)).variety()
    assert same == pytest.approx(0, abs=1e-5)
    anything = measure(lambda prompt, seed: of(str(seed))).variety()
    assert anything == pytest.approx(1, abs=0.1)


def test_another_size_is_looked_at_in_its_middle(measure):
    by_phrase = {phrase: concept for concept, phrase in COMMON_CONCEPTS.items()}

    def wide(prompt: str, seed: int) -> Tensor:
        return F.pad(of(by_phrase[prompt]), (5, 5))

    assert measure(wide).sized(18, 8).top1 == 1
