"""What an encoder knows is measured right: shown on encoders that know everything and nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sanakit.pocket.evaluate.words import nearest, told_apart
from sanakit.pocket.train.words import WordsBatch, WordsObjective
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.probes import PROBES
from sanakit.pocket.words.teaching.asked_texts import PLACED, ROLES, Asked

PAIRS = (("left", "right"), ("top", "bottom"), ("big", "small"))
OPPOSITES = {ROLES.index(a): ROLES.index(b) for pair in PAIRS for a, b in (pair, pair[::-1])}


def test_names_are_nearest_to_their_own_things_and_to_no_others(objective: WordsObjective):
    names = [(phrase, concept) for concept, phrase in COMMON_CONCEPTS.items()]
    assert nearest(objective, names) == (1.0, 1.0)
    turned = [(phrase, names[i - 1][1]) for i, (phrase, _) in enumerate(names)]
    assert nearest(objective, turned)[0] == 0


def test_every_probe_means_a_common_thing_and_is_not_its_name():
    for concept, words in PROBES.items():
        assert concept in COMMON_CONCEPTS
        assert not {concept, COMMON_CONCEPTS[concept].partition(" ")[2]} & set(words)


@pytest.mark.parametrize(("swapped", "share"), [(False, 1.0), (True, 0.0)])
def test_things_are_told_apart_where_the_heads_say_so(objective: WordsObjective, monkeypatch, swapped, share):
    """An encoder whose features say at each mark which thing stands where, rightly or the other way round."""
    batches: list[WordsBatch] = []
    real = objective.marked

    def marked(texts: list[Asked], weight: float = 1.0) -> WordsBatch:
        batches.append(real(texts, weight))
        return batches[-1]

    def encode(tails: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = batches[-1]
        lengths = [len(tail) + 1 for tail in tails]
        features = torch.zeros(len(tails), max(lengths), 256 + len(ROLES) + 1)
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        features[..., -1] = 10.0  # here no role is said
        marks = zip(batch.rows, batch.columns, batch.things, batch.roles, strict=True)
        for row, column, thing, role in marks:
            if role >= 0:
                told = OPPOSITES[int(role)] if swapped else int(role)
                features[row, column, :256] = F.normalize(thing, dim=0)
                features[row, column, 256 + told] = 30.0
        return features, mask

    monkeypatch.setattr(objective, "marked", marked)
    monkeypatch.setattr(objective.encoder, "encode_tokens", encode)
    heads = SimpleNamespace(word=lambda x: x[..., :256], role=lambda x: x[..., 256:])
    monkeypatch.setattr(objective, "heads", heads)
    found = told_apart(objective, pairs=4)
    assert set(found) == set(PLACED)
    assert np.allclose(list(found.values()), share)
