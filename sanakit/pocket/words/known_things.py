"""The file of the things that pocket knows, with other words for them, as its folder carries it.

A name in another language counts only where the encoder places it near its thing: a name that it does not
understand is rightly told as unknown. The threshold is found for the encoder at hand, on texts that name
nothing to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sanakit.models.contracts import TextModel
from sanakit.pocket.words.asked_as import names_of
from sanakit.pocket.words.captions import everyday_phrases, phrase_of
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.plurals import is_countable, plural_of
from sanakit.pocket.words.unlike import UNLIKE
from sanakit.text.known_things import KnownThings, bare_name

TOLD = 0.97  # share of texts that name nothing which are told so
UNDERSTOOD = 5  # a foreign name is understood if its thing is among so many nearest
SHORTEST_FOREIGN = 4  # letters of a foreign name in Latin script: shorter ones are English words too often
# Other words for things that mostly mean something else: an article, a remark, "paint me a dog".
MISLEADING = frozenset({"die", "comment", "paints"})


def known_things(
    concepts: Iterable[str],
    encoder: TextModel,
    foreign: Mapping[str, Sequence[str]] | None = None,
    animated: Iterable[str] = (),
) -> KnownThings:
    """Collect the things of a data set. encoder: of the model that draws them.

    concepts: CLDR labels, such as those of all rows. foreign: concept -> its names in other languages.
    animated: those of the concepts that a model of clips learned from animations.
    """
    there = dict.fromkeys(concepts)
    best_known = [concept for concept in (*COMMON_CONCEPTS, *FURTHER_CONCEPTS) if concept in there]
    labels = {ask_for(concept): concept for concept in dict.fromkeys([*best_known, *there])}
    things = {phrase: _others(concept, phrase) for phrase, concept in labels.items()}
    english = KnownThings(things, threshold=0.0, unlike=UNLIKE[::2])
    added = _understood(english, labels, encoder, foreign or {})
    things = {phrase: [*words, *added.get(phrase, ())] for phrase, words in things.items()}
    moving = set(animated)
    return fitted(things, encoder, [phrase for phrase, concept in labels.items() if concept in moving])


def fitted(
    things: Mapping[str, Sequence[str]], encoder: TextModel, animated: Sequence[str] = ()
) -> KnownThings:
    """Return known things with the threshold that fits an encoder: most texts that name nothing are told."""
    known = KnownThings(things, threshold=0.0, unlike=UNLIKE[::2])
    unnamed = [text for text in UNLIKE[1::2] if known.named(text) is None]
    scores = [score for score, _ in known.look_up(unnamed, encoder)]
    threshold = round(float(np.quantile(scores, TOLD)), 3)
    return KnownThings(things, threshold=threshold, unlike=known.unlike, animated=animated)


def ask_for(concept: str) -> str:
    """Return the phrase that asks for a concept."""
    return COMMON_CONCEPTS.get(concept) or FURTHER_CONCEPTS.get(concept) or phrase_of(concept)


def _others(concept: str, phrase: str) -> list[str]:
    """Return the other words for a thing, with the plurals that no rule leads back from."""
    names = [phrase, *everyday_phrases(concept), *names_of(concept)]
    found = [bare for name in names if (bare := bare_name(name)) not in MISLEADING]
    probe = KnownThings({name: () for name in found}, threshold=0.0)
    plurals = [plural_of(name) for name in found if is_countable(name)]
    found += [plural for plural in plurals if probe.named(plural) is None]
    return [name for name in dict.fromkeys(found) if name != bare_name(phrase)]


def _understood(
    known: KnownThings,
    labels: Mapping[str, str],
    encoder: TextModel,
    foreign: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """Return, for each phrase, the foreign names that the encoder places near it; none that UNLIKE has."""
    pairs = [
        (phrase, name)
        for phrase, concept in labels.items()
        for name in dict.fromkeys(foreign.get(concept, ()))
        if known.named(name) is None and (len(name) >= SHORTEST_FOREIGN or not name.isascii())
    ]
    if not pairs:
        return {}
    near = known.look_up([name for _, name in pairs], encoder, UNDERSTOOD)
    right = [pair for pair, (_, nearest) in zip(pairs, near, strict=True) if pair[0] in nearest]
    seen: set[str | None] = {""}
    while seen and right:
        probe = KnownThings({name: () for _, name in right}, threshold=0.0)
        seen = {probe.named(text) for text in UNLIKE} - {None}
        right = [pair for pair in right if pair[1] not in seen]
    found: dict[str, list[str]] = {}
    for phrase, name in right:
        found.setdefault(phrase, []).append(name)
    return found
