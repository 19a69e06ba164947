"""Which thing a plain word draws: "puppy" the dog, "bunny" the rabbit, "sedan" the automobile.

The words stand in asked_as.txt, a concept a line: its CLDR label, then the words for it, singular, without
article; their plurals follow by rule. They were chosen by hand, from WordNet's hyponyms and everyday speech.
A word stands for one thing only, and only where its image does not disappoint: a Dalmatian is drawn as the
dog, an ostrich is left out. Where a word means several emoji, the whole animal goes before its face and the
everyday thing before the special one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sanakit.pocket.words.captions import with_article
from sanakit.pocket.words.plurals import is_countable, plural_of

FILE = Path(__file__).with_suffix(".txt")


def names_of(concept: str) -> tuple[str, ...]:
    """Return the names of a thing from the table, each with the article it takes; none for a thing not in it.

    >>> names_of("cherries")[:2]
    ('a cherry', 'a pair of cherries')
    """
    words = _table().get(concept, ())
    return tuple(with_article(word) if is_countable(word) else word for word in words)


@cache
def words() -> dict[str, str]:
    """Return word or words without article, singular -> CLDR base label of the thing that it draws."""
    found: dict[str, str] = {}
    for concept, own in _table().items():
        for word in own:
            assert found.setdefault(word, concept) == concept, word
    return found


@cache
def asked_as() -> dict[str, str]:
    """Return the same with the plurals."""
    plurals = {
        plural: concept
        for word, concept in words().items()
        if is_countable(word) and (plural := plural_of(word)) not in words()
    }
    return words() | plurals


@cache
def _table() -> dict[str, tuple[str, ...]]:
    """Return CLDR base label -> its words."""
    table = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        concept, _, own = line.rpartition(": ")
        table[concept] = tuple(own.split(", "))
    return table
