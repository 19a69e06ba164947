from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.words.captions import phrase_of
from sanakit.pocket.words.carriers import (
    BARE_CARRIERS,
    CARRIERS,
    PLAIN,
    asked,
    asked_in_colour,
    coloured,
    described,
    is_alive,
)
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import is_first_prompt, plain
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.text.known_things import bare_name


def draws(phrase: str, count: int = 4000, **options: bool) -> list[str]:
    random = np.random.default_rng(0)
    return [asked(phrase, random, **options) for _ in range(count)]


def test_four_in_ten_draws_are_the_phrase_itself():
    plain = sum(text == "a hedgehog" for text in draws("a hedgehog")) / 4000
    assert PLAIN == 0.4
    assert abs(plain - PLAIN) < 0.05


def test_the_thing_is_named_in_every_way_of_asking():
    assert all("hedgehog" in text.lower() for text in draws("a hedgehog", alive=True))


def test_ways_of_asking_are_many():
    assert len(set(draws("a hedgehog"))) > 600


@pytest.mark.parametrize(
    "phrase", ["a panda", "a dog", "a cat", "a house", "a bunny", "the moon", "a smiley"]
)
def test_no_prompt_of_the_test_is_given_but_the_own_phrase_of_a_thing(phrase: str):
    leaked = {text for text in draws(phrase, 20_000, alive=True) if is_first_prompt(text)}
    own = {*COMMON_CONCEPTS.values(), *FURTHER_CONCEPTS.values()}
    assert {plain(text) for text in leaked} <= own


def test_no_coloured_prompt_of_the_test_is_given():
    random = np.random.default_rng(0)
    said = [asked_in_colour("a cat", "blue", random, alive=True) for _ in range(2000)]
    assert not any(map(is_first_prompt, said))
    assert all("blue" in text.lower() for text in said)


def test_every_carrier_holds_one_thing():
    assert all(template.count("{}") == 1 for template in (*CARRIERS, *BARE_CARRIERS))


def test_things_that_are_not_alive_do_nothing_and_wear_nothing():
    assert not any("wearing" in text or "sleeping" in text for text in map(str.lower, draws("a key")))
    assert any("wearing" in text for text in draws("a dog", alive=True))
    assert is_alive("dog", "animals & nature", "mammals")
    assert not is_alive("feather", "animals & nature", "birds")
    assert not is_alive("key", "objects", "lock & keys")


def test_adjectives_take_their_article():
    assert described("a dog", "adorable") == "an adorable dog"
    assert described("an owl", "cute") == "a cute owl"
    assert described("grapes", "nice") == "nice grapes"


def test_a_new_colour_takes_the_place_of_the_old_one():
    assert coloured("a red car", "orange") == "an orange car"
    assert coloured("an owl", "blue") == "a blue owl"
    assert coloured("a ginger cat", "grey") == "a grey cat"
    assert coloured("blue jeans", "red") == "red jeans"
    assert coloured("an orange fruit", "blue") == "a blue orange fruit"


def test_every_common_thing_has_a_bare_name():
    assert all(bare_name(phrase_of(concept)).strip() for concept in COMMON_CONCEPTS)
