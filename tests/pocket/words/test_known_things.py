"""What pocket says that it knows: strangers' first words are named, and texts without a thing are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from sanakit.pocket.words.asked_as import asked_as
from sanakit.pocket.words.carriers import CARRIERS
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import FIRST_PROMPTS, UNKNOWN_PROMPTS, plain
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.known_things import MISLEADING, ask_for, known_things
from sanakit.pocket.words.unlike import UNLIKE
from sanakit.text.encoder import TextEncoder
from sanakit.text.known_things import KnownThings

CONCEPTS = list(
    dict.fromkeys([*COMMON_CONCEPTS, *FURTHER_CONCEPTS, *asked_as().values()])
)  # no data set needed
FOREIGN = {"dog": ["Hund", "perro", "chien", "an idea"], "cat": ["Katze", "Buch"]}
PLACES = {"hund": "dog", "perro": "dog", "katze": "cat", "chien": "cat", "buch": "book"}


class Toy:
    """Stands for a TextEncoder: a text lies where its last word does; five foreign words by things."""

    def encode(self, prompts: Sequence[str], notes: list[str] | None = None) -> list[Tensor]:
        return [self._place(prompt.split()[-1].lower())[None] for prompt in prompts]

    def _place(self, word: str) -> Tensor:
        seed = sum(ord(letter) * 31**i for i, letter in enumerate(PLACES.get(word, word)))
        return torch.randn(64, generator=torch.Generator().manual_seed(seed % 2**31))


@pytest.fixture(scope="module")
def known() -> KnownThings:
    return known_things(reversed(CONCEPTS), cast("TextEncoder", Toy()), FOREIGN)


def test_the_first_things_that_strangers_type_are_named(known) -> None:
    assert [prompt for prompt in FIRST_PROMPTS if known.named(prompt) is None] == []


def test_every_word_that_draws_a_thing_is_one_of_its_words(known) -> None:
    kept = {
        word for word in asked_as() if word not in MISLEADING and word.removesuffix("s") not in MISLEADING
    }
    assert len(kept) > 4000
    assert [word for word in kept if known.named(word) is None] == []


def test_phrases_are_those_that_captions_have(known) -> None:
    assert set(known.things) == {ask_for(concept) for concept in CONCEPTS}
    assert len(known.things) == len(CONCEPTS)
    assert known.phrases[:200] == tuple(COMMON_CONCEPTS.values())
    assert known.named("a picture of a soccer ball") == COMMON_CONCEPTS["soccer ball"]


def test_words_around_a_thing_name_none_but_children(known) -> None:
    named = {carrier for carrier in CARRIERS if known.named(carrier.format("xqz"))}
    assert named == {"{} for kids", "a child's drawing of {}"}


def test_of_the_40_prompts_without_a_thing_one_has_words_of_a_thing(known) -> None:
    named = [prompt for prompt in UNKNOWN_PROMPTS if known.named(prompt)]
    assert named == ["the square root of minus one"]


def test_texts_to_tune_by_are_not_those_of_the_test(known) -> None:
    assert len(set(UNLIKE)) == len(UNLIKE) > 500
    assert {plain(text) for text in UNLIKE}.isdisjoint(map(plain, [*UNKNOWN_PROMPTS, *FIRST_PROMPTS]))
    assert known.unlike == UNLIKE[::2]


def test_a_foreign_name_counts_where_the_encoder_places_it_by_its_thing(known) -> None:
    dog, cat = ask_for("dog"), ask_for("cat")
    assert {"Hund", "perro"} <= set(known.things[dog])
    assert "chien" not in known.things[dog]
    assert "Katze" in known.things[cat]
    assert "Buch" not in known.things[cat]
    assert known.named("ein Hund") == dog
    assert "an idea" not in known.things[dog]


def test_the_threshold_tells_97_percent_of_the_texts_it_was_found_by(known) -> None:
    encoder = cast("TextEncoder", Toy())
    texts = [text for text in UNLIKE[1::2] if known.named(text) is None]
    told = sum(known.check(text, encoder) is not None for text in texts) / len(texts)
    assert 0.96 <= told <= 0.98
