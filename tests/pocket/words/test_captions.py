from __future__ import annotations

from collections import Counter

import pytest

from sanakit.pocket.words import captions as words
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.names import EVERYDAY_NAMES, PHRASES


def test_there_are_200_common_concepts_and_each_has_its_own_prompt():
    assert len(COMMON_CONCEPTS) == 200
    assert len({prompt.lower() for prompt in COMMON_CONCEPTS.values()}) == 200


def test_no_phrase_stands_for_two_concepts():
    concepts = {
        *COMMON_CONCEPTS,
        *EVERYDAY_NAMES,
        *PHRASES,
        "cat",
        "dog",
        "horse",
        "tiger",
        "train",
        "moon",
        "book",
    }
    phrases = Counter(phrase.lower() for concept in concepts for phrase in words.everyday_phrases(concept))
    assert [phrase for phrase, count in phrases.items() if count > 1] == []


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("astronaut", "an astronaut"),
        ("unicorn", "a unicorn"),
        ("euro banknote", "a euro banknote"),
        ("hourglass", "an hourglass"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("compass", "a compass"),
        ("globe with meridians", "a globe with meridians"),
        ("woman lifting weights", "a woman lifting weights"),
        ("people with bunny ears", "people with bunny ears"),
        ("popcorn", "popcorn"),
        ("ring", "a ring"),
    ],
)
def test_names_get_the_article_that_english_gives_them(name: str, phrase: str):
    assert words.with_article(name) == phrase


@pytest.mark.parametrize(
    ("concept", "phrase"),
    [
        ("woman: red hair", "a woman with red hair"),
        ("man: bald", "a bald man"),
        ("person: beard", "a person with a beard"),
        ("man\u2019s shoe", "a man's shoe"),
        ("ewe", "a sheep"),
        ("kaaba", "the Kaaba"),
    ],
)
def test_cldr_labels_become_phrases_one_would_prompt(concept: str, phrase: str):
    assert words.phrase_of(concept) == phrase


def test_captions_name_the_style_in_several_ways_and_end_without_it():
    captions = words.captions_of(
        "automobile", ["coup\u00e9", "automobile", "car", "driving", "vehicle", "trip"], words.STYLES[0]
    )
    assert captions == [
        "a glossy 3D render of a red car",
        "automobile, 3D render emoji",
        "a 3D render of a car on a white background",
        "a red car, 3D render",
        "automobile, car, driving, vehicle, 3D render emoji",
        "a red car",
        "a car",
    ]


def test_captions_are_five_to_seven_and_none_twice():
    for style in words.STYLES:
        for concept in (*COMMON_CONCEPTS, *PHRASES, "person: beard"):
            for keywords in ([], ["animal", "pet"]):
                captions = words.captions_of(concept, keywords, style)
                assert 5 <= len(captions) <= 7
                assert len(set(captions)) == len(captions)


def test_no_two_styles_share_a_styled_caption():
    styled = [set(words.captions_of("fox", ["animal"], style)[:-2]) for style in words.STYLES]
    assert len(set.union(*styled)) == sum(map(len, styled))


@pytest.mark.parametrize(
    ("concept", "group", "subgroup", "kept"),
    [
        ("fox", "animals & nature", "mammals", True),
        ("red circle", "symbols", "shapes & colors", True),
        ("ATM sign", "symbols", "transport signs", False),
        ("flag: France", "flags", "country-flag", False),
        ("two o\u2019clock", "travel & places", "time", False),
        ("two-thirty", "travel & places", "time", False),
        ("watch", "travel & places", "time", True),
        ("man running: facing right", "people & body", "activities", False),
        ("kiss: man, man", "people & body", "family", False),
        ("middle finger", "people & body", "finger pointing", False),
        ("regional indicator A", "", "", False),
    ],
)
def test_only_picturable_concepts_are_kept(concept: str, group: str, subgroup: str, kept: bool):
    assert words.is_kept(concept, group, subgroup) is kept


def test_what_people_ask_for_is_never_held_out():
    assert {words.split_of(concept) for concept in (*COMMON_CONCEPTS, *EVERYDAY_NAMES)} == {"train"}


def test_about_one_rare_concept_in_forty_is_held_out():
    held_out = sum(words.split_of(f"concept {index}") == "val" for index in range(4000))
    assert 70 < held_out < 130  # 100 expected, three standard deviations
    assert words.split_of("leopard") == "val"  # the split must never change: weights were trained on it
