from __future__ import annotations

from collections import Counter

from sanakit.pocket.words.captions import everyday_phrases
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.names import EVERYDAY_NAMES, PHRASES


def test_there_are_300_further_things_and_none_is_common():
    assert len(FURTHER_CONCEPTS) == 300
    assert not FURTHER_CONCEPTS.keys() & COMMON_CONCEPTS.keys()


def test_no_phrase_stands_for_two_things():
    owners: dict[str, set[str]] = {}
    for concept in {*COMMON_CONCEPTS, *EVERYDAY_NAMES, *PHRASES, *FURTHER_CONCEPTS}:
        for phrase in {*everyday_phrases(concept), FURTHER_CONCEPTS.get(concept, "")} - {""}:
            owners.setdefault(phrase.lower(), set()).add(concept)
    assert {phrase: of for phrase, of in owners.items() if len(of) > 1} == {}


def test_the_phrases_differ():
    assert [phrase for phrase, count in Counter(FURTHER_CONCEPTS.values()).items() if count > 1] == []
