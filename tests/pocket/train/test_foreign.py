"""A text encoder learns that a foreign name is the English one, and keeps what it knew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sanakit.pocket.train.foreign import BEFORE, ForeignName, ForeignObjective, foreign_list
from sanakit.pocket.train.words import WordsObjective
from sanakit.text.encoder import TextEncoder
from sanakit.train.parts import Part

NAMES = {"fox": "xof", "fire engine": "enigne erif", "key": "yek", "tent": "tnet"}
PHRASES = {"fox": "a fox", "fire engine": "a fire truck", "key": "a key", "tent": "a tent"}


@pytest.fixture
def make(objective: WordsObjective) -> Callable[..., ForeignObjective]:
    """Makes an objective around a fresh copy of the toy encoder."""

    def make(kept: float = 0.3) -> ForeignObjective:
        old = objective.encoder
        model = type(old.model)(old.model.config)
        model.load_state_dict(old.model.state_dict())
        return ForeignObjective(
            TextEncoder(model, old.tokenizer),
            [ForeignName(concept, "de", name, 1.0) for concept, name in NAMES.items()],
            lambda random: f"a small {list(PHRASES)[int(random.integers(4))]}",
            kept=kept,
            english=["fox", "fire truck", "key", "tent"],
            things=PHRASES,
            watched={"de": NAMES},
        )

    return make


def test_the_last_feature_of_a_name_is_to_become_that_of_the_english_phrase(make):
    aligned = make().aligned([("enigne erif", "enigne erif", "a fire engine")])
    (english,) = make().taught.encode(["a fire engine"], notes=[])
    count = len(aligned.tails[0])
    assert aligned.columns == list(range(1, count + 1))
    torch.testing.assert_close(aligned.targets[-1], english[-1])
    torch.testing.assert_close(aligned.targets[-2], english[-2])  # fire
    torch.testing.assert_close(aligned.targets[0], english[1])  # of the article: more tokens than words
    shares = aligned.shares / aligned.shares[-1]
    assert shares.tolist() == pytest.approx([BEFORE] * (count - 1) + [1.0])


def test_a_carrier_stays_and_what_follows_a_name_means_its_thing(make):
    made = make()
    text = "ein bild von yek zeichnen"
    aligned = made.aligned([(text, "yek", "a key")])
    own = made.taught.encode([text, "a key"], notes=[])
    before = len(made.encoder.tokenizer.encode(" ein bild von", add_special_tokens=False).ids)
    torch.testing.assert_close(aligned.targets[:before], own[0][1 : before + 1])
    torch.testing.assert_close(aligned.targets[-1], own[1][-1])


def test_a_name_that_begins_with_an_english_one_leaves_that_alone(make):
    """ "key" alone and the first token of "key yek" are the same to a causal encoder."""
    made = make()
    aligned = made.aligned([("key yek", "key yek", "a tent")])
    english = len(made.encoder.tokenizer.encode(" key", add_special_tokens=False).ids)
    assert english not in aligned.columns
    assert aligned.columns[-1] == len(aligned.tails[0])
    assert aligned.shares.sum().item() == pytest.approx(1.0)


def test_kept_captions_are_to_stay_as_they_are(make):
    made = make()
    aligned = made.aligned([("a small fox", None, "a small fox")])
    (own,) = made.taught.encode(["a small fox"], notes=[])
    torch.testing.assert_close(aligned.targets, own)  # BOS among them
    assert made.loss(aligned).item() < 1e-9


def test_shares_of_parts_add_up_to_one(make):
    made = make()
    parts = [made.batch(3, Part(start, start + 4, 8)) for start in (0, 4)]
    whole = made.batch(3, Part(0, 8, 8))
    assert whole.tails == [*parts[0].tails, *parts[1].tails]
    assert sum(part.shares.sum().item() for part in parts) == pytest.approx(1.0)
    both = sum(made.loss(part).item() for part in parts)
    assert made.loss(whole).item() == pytest.approx(both, rel=1e-4)


def test_names_come_to_lie_by_their_things_and_english_stays(make):
    made = make()
    before = made.evaluate(made.model)
    taught = {name: weight.clone() for name, weight in made.taught.model.state_dict().items()}
    optimizer = torch.optim.AdamW(made.model.parameters(), 3e-3, weight_decay=0.0)
    for step in range(40):
        loss = made.loss(made.batch(step, Part(0, 16, 16)))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            lost = [name for name, one in made.model.named_parameters() if one.grad is None]
            assert not lost
        optimizer.step()
    after = made.evaluate(made.model)
    assert before["moved"] == 0
    assert after["de_top1"] == 1.0 > before["de_top1"]
    assert after["moved"] < 0.05
    for name, weight in made.taught.model.state_dict().items():
        assert torch.equal(weight, taught[name])


def test_a_name_that_is_an_english_one_of_another_thing_is_left_out():
    names = {"hut": {"de": "Hütte"}, "top hat": {"de": "Hut", "fr": "chapeau"}, "fox": {"de": "Fox"}}
    found, left_out = foreign_list(names, lambda concept: 0.5)
    assert left_out == 1
    assert [(one.concept, one.name) for one in found] == [
        ("hut", "Hütte"),
        ("top hat", "chapeau"),
        ("fox", "Fox"),
    ]
    assert {one.weight for one in found} == {0.5}


def test_names_are_drawn_by_their_weights_and_mostly_bare(make):
    made = make(kept=0.0)
    texts = [made._foreign(np.random.default_rng(i)) for i in range(400)]
    assert {name for _, name, _ in texts} == set(NAMES.values())
    bare = np.mean([text == name for text, name, _ in texts])
    assert 0.6 < bare < 0.85  # a third of the carriers are bare, too
