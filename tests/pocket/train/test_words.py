"""The text encoder learns what it is taught: on toy words, in seconds."""

from __future__ import annotations

import numpy as np
import torch

from sanakit.pocket.train.words import WordsObjective, apart
from sanakit.pocket.words.teaching.asked_texts import ROLES
from sanakit.train.parts import Part


def test_tokens_are_those_that_the_encoder_itself_would_see(objective: WordsObjective):
    texts = [objective.texts.draw(np.random.default_rng(i)) for i in range(32)]
    assert objective.marked(texts).tails == objective.encoder.tokenize([asked.text for asked in texts])


def test_a_mark_points_at_the_token_in_which_its_name_ends(objective: WordsObjective):
    things = {name: objective.texts.vocabulary.texts.index(name) for name in ("fox", "key")}
    asked = objective.texts.pair("{a}[a] left of[a left] {b}[b right]", things["fox"], things["key"])
    batch = objective.marked([asked])
    tokens = ["", *(objective.encoder.tokenizer.id_to_token(i) for i in batch.tails[0])]
    read = ["".join(tokens[: column + 1]).replace("▁", " ").strip() for column in batch.columns.tolist()]
    assert read == ["a fox", "a fox left of", "a fox left of a key"]
    assert batch.roles.tolist() == [-1, ROLES.index("left"), ROLES.index("right")]


def test_parts_of_a_batch_are_the_batch(objective: WordsObjective):
    whole = objective.batch(3, Part(0, 8, 8))
    parts = [objective.batch(3, Part(start, start + 4, 8)) for start in (0, 4)]
    assert whole.tails == [*parts[0].tails, *parts[1].tails]
    assert [part.weight for part in parts] == [0.5, 0.5]


def test_the_place_of_a_prediction_costs_least_where_it_is_right():
    target = torch.nn.functional.normalize(
        torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=1
    )
    right = apart(target, target)
    assert right < apart(target.roll(1, 0), target)
    assert right < apart(-target, target)


def test_the_table_alone_knows_the_words(objective: WordsObjective):
    vocabulary, tokenizer = objective.texts.vocabulary, objective.encoder.tokenizer
    table = objective.encoder.model.embed_tokens.weight
    places = torch.from_numpy(vocabulary.places)
    right = 0
    for i, text in enumerate(vocabulary.texts):
        ids = tokenizer.encode(f" {text.lower()}", add_special_tokens=False).ids
        right += int((places @ table[ids].mean(0)).argmax()) == i
    assert right > 0.9 * len(vocabulary.texts)


def test_gradients_reach_every_parameter_and_some_steps_lower_the_loss(objective: WordsObjective):
    optimizer = torch.optim.AdamW(objective.model.parameters(), 2e-3)
    losses = []
    for step in range(12):
        loss = objective.loss(objective.batch(step, Part(0, 48, 48)))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            missing = [name for name, p in objective.model.named_parameters() if p.grad is None]
            assert not missing
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_a_text_in_which_nothing_is_placed_does_not_count_for_silence(objective: WordsObjective):
    """Everywhere in "a and b" the role is unsaid, not absent: such texts teach no silence."""
    placed = objective.texts.pair("{a}[a] above[a top] {b}[b bottom]", 0, 1)
    unplaced = objective.texts.pair("{a}[a] and {b}[b]", 2, 3)
    alone = objective.terms(objective.marked([placed]))
    beside = objective.terms(objective.marked([placed, unplaced]))
    torch.testing.assert_close(beside["silent"], alone["silent"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(beside["role"], alone["role"], rtol=1e-4, atol=1e-5)
    assert alone["silent"] > 0


def test_losses_are_numbers_where_nothing_is_placed_or_coloured(objective: WordsObjective):
    unplaced = objective.texts.pair("{a}[a] and {b}[b]", 2, 3)
    terms = objective.terms(objective.marked([unplaced]))
    assert [terms[name].item() for name in ("role", "silent", "colour")] == [0, 0, 0]
    assert all(torch.isfinite(term) for term in terms.values())
