"""Kinds of things, read from a WordNet of nine synsets."""

from __future__ import annotations

from sanakit.pocket.words.teaching.wordnet import Nouns

# Offset, lexicographer file, n, words, pointers | gloss, as wndb(5) says.
# Files: 5 animals, 6 artifacts, 10 communication.
DATA = """  1 This is a licence.
00000001 05 n 02 dog 0 domestic_dog 0 002 ~ 00000002 n 0000 ~ 00000003 n 0000 | a kind of canine; barks
00000002 05 n 01 poodle 0 001 ~ 00000004 n 0000 | an intelligent dog
00000003 05 n 02 Basenji 0 barkless_hound 0 000 | a small dog
00000004 05 n 01 toy_poodle 0 000 | the smallest poodle
00000005 10 n 01 idea 0 000 | the content of cognition
00000006 06 n 01 clip 0 000 | an instrument: it holds paper
00000007 10 n 01 clip 0 000 | a passage
00000008 05 n 01 pup1 0 000 | a name with a digit
"""
INDEX = """  1 This is a licence.
dog n 1 1 ~ 1 1 00000001
poodle n 1 1 ~ 1 0 00000002
idea n 1 1 ~ 1 1 00000005
clip n 2 1 ~ 2 1 00000007 00000006
pup1 n 1 0 1 0 00000008
toy_poodle n 1 0 1 0 00000004
"""
NOUNS = Nouns(DATA, INDEX)


def test_kinds_come_with_their_thing_and_not_with_themselves():
    assert NOUNS.kinds({"dog"}, set()) == {
        **{"domestic dog": "dog", "poodle": "dog", "basenji": "dog", "barkless hound": "dog"},
        "toy poodle": "dog",
    }


def test_a_kind_of_two_things_belongs_to_the_nearer_one():
    assert NOUNS.kinds({"dog", "poodle"}, set())["toy poodle"] == "poodle"


def test_messages_have_no_kinds_to_draw():
    assert NOUNS.kinds({"idea"}, set()) == {}


def test_frequent_nouns_are_physical_and_have_their_first_physical_gloss():
    frequent = {"dog", "clip", "idea", "toy", "poodle", "pup1"}
    assert NOUNS.frequent(frequent) == {
        "dog": "a kind of canine",
        "clip": "an instrument",
        "poodle": "an intelligent dog",
        "toy poodle": "the smallest poodle",
    }
    assert NOUNS.frequent({"toy"}) == {}
