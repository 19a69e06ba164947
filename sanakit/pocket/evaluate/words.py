"""Ask a text encoder what it knows, before any image is drawn: words, languages, who stands where.

A word counts as known when its place is nearest to that of the right one of the 200 common things (their mean
taken off). A pair counts as told apart when, of all features, the one most certain of "left" and of a thing
names the left thing, and the one most certain of "right" the other: guessing gets half at best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.pocket.train.words import SHARP, WordsObjective
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS
from sanakit.pocket.words.teaching.asked_texts import PLACED
from sanakit.text.known_things import bare_name


@torch.no_grad()
def nearest(
    objective: WordsObjective, asked: Sequence[tuple[str, str]], carrier: str = "{}"
) -> tuple[float, float]:
    """Return how often (top-1, top-5, in parts of 1) a word's place is nearest to its thing's.

    asked: pairs of a word and the concept it means. carrier: how the word is requested.
    """
    concepts = list(COMMON_CONCEPTS)
    names = _places(objective, list(COMMON_CONCEPTS.values()))
    words = _places(objective, [carrier.format(word) for word, _ in asked])
    mean = names.mean(0)
    near = F.normalize(words - mean, dim=1) @ F.normalize(names - mean, dim=1).T
    best = near.topk(5).indices.tolist()
    found = [[concepts[i] for i in row] for row in best]
    right = [concept for _, concept in asked]
    tops = [np.mean([thing in row[:k] for thing, row in zip(right, found, strict=True)]) for k in (1, 5)]
    return float(tops[0]), float(tops[1])


@torch.no_grad()
def told_apart(objective: WordsObjective, pairs: int = 60, seed: int = 0) -> dict[str, float]:
    """Return, for each form that places two things, how often both are told right, in parts of 1."""
    texts = objective.texts
    index = {text: i for i, text in enumerate(texts.vocabulary.texts)}
    pool = [index[bare_name(COMMON_CONCEPTS[concept])] for concept in SCENE_CONCEPTS]
    random = np.random.default_rng(seed)
    chosen = [[pool[i] for i in random.choice(len(pool), 2, replace=False)] for _ in range(pairs)]
    candidates = F.normalize(torch.from_numpy(texts.vocabulary.places[pool]).float(), dim=1)
    place = {thing: i for i, thing in enumerate(pool)}
    results = {}
    for form in PLACED:
        asked = [texts.pair(form, first, second) for first, second in chosen]
        batch = objective.marked(asked)
        features, mask = objective.encoder.encode_tokens(batch.tails)
        roles = objective.heads.role(features).log_softmax(-1).masked_fill(~mask[..., None], -torch.inf)
        roles[:, 0] = -torch.inf
        right = []
        for row, one in enumerate(asked):
            told = {mark.role: mark.thing for mark in one.marks if mark.role >= 0}
            # a feature says a role of a thing: the one most certain of both counts
            near = F.normalize(objective.heads.word(features[row]), dim=1) @ candidates.T  # L things
            certain, named = near.max(1)
            found = [int(named[(roles[row, :, role] + SHARP * certain).argmax()]) for role in told]
            right.append(found == [place[thing] for thing in told.values()])
        results[form] = float(np.mean(right))
    return results


def _places(objective: WordsObjective, texts: Sequence[str], at_once: int = 128) -> Tensor:
    """Return unit places of texts: of the feature at which their last word ends."""
    out = []
    for start in range(0, len(texts), at_once):
        tails = objective.encoder.tokenize(list(texts[start : start + at_once]))
        features, mask = objective.encoder.encode_tokens(tails)
        last = features[torch.arange(len(features)), mask.sum(1) - 1]
        out.append(F.normalize(objective.heads.last(last), dim=1))
    return torch.cat(out)
