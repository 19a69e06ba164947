from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sanakit.pocket.words.asked_as import asked_as, names_of, words
from sanakit.pocket.words.captions import everyday_phrases
from sanakit.pocket.words.carriers import OWN_NAME, draw_name
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.plurals import is_countable, plural_of
from sanakit.text.known_things import bare_name


@pytest.mark.parametrize(
    ("word", "concept"),
    [
        *[("dog", "dog"), ("puppy", "dog"), ("poodle dog", "poodle"), ("dog head", "dog face")],
        *[("kitten", "cat"), ("bunny", "rabbit"), ("horse", "horse"), ("flower", "blossom")],
        *[("sedan", "automobile"), ("spaceship", "rocket"), ("boat", "sailboat"), ("train", "train")],
        *[("phone", "mobile phone"), ("clock", "alarm clock"), ("ball", "soccer ball")],
        *[("moon", "crescent moon"), ("heart", "red heart"), ("man", "man"), ("baby", "baby")],
        *[("puppies", "dog"), ("wolves", "wolf"), ("cups of tea", "hot beverage")],
    ],
)
def test_plain_words_draw_what_people_mean(word: str, concept: str):
    assert asked_as()[word] == concept


def test_there_are_many_words_for_many_things():
    assert len(words()) > 4000
    assert len(asked_as()) > 7000


def test_every_common_and_further_thing_has_a_word():
    assert {*COMMON_CONCEPTS, *FURTHER_CONCEPTS} <= set(words().values())


def test_no_word_is_the_phrase_of_another_thing():
    owners = {
        bare_name(phrase).lower(): concept
        for concept in {*words().values()}
        for phrase in (*everyday_phrases(concept), FURTHER_CONCEPTS.get(concept, "-"))
    }
    wrong = {
        word: owners[word] for word, concept in asked_as().items() if owners.get(word, concept) != concept
    }
    assert wrong == {}


def test_words_are_written_in_lower_case_and_once():
    assert all(word == word.lower().strip() for word in words())
    assert max(Counter(name for concept in {*words().values()} for name in names_of(concept)).values()) == 1


@pytest.mark.parametrize(
    ("word", "plural"),
    [("puppy", "puppies"), ("bus", "buses"), ("toy", "toys"), ("slice of pizza", "slices of pizza")],
)
def test_plurals_follow_english(word: str, plural: str):
    assert plural_of(word) == plural


def test_mass_words_and_plurals_have_no_plural():
    assert not any(map(is_countable, ["coffee", "jeans", "santa claus", "cup with a straw"]))
    assert is_countable("glass")
    assert names_of("hot beverage")[:2] == ("coffee", "a cup of coffee")


def test_half_the_names_drawn_are_a_things_own():
    random = np.random.default_rng(0)
    names = Counter(draw_name("rabbit", random) for _ in range(3000))
    assert abs(names["a rabbit"] / 3000 - OWN_NAME) < 0.1
    assert names["a bunny"] > 50
    assert names["bunnies"] > 0
    assert draw_name("lime", random)  # neither common nor further
