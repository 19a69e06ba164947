"""Texts that teach the encoder say of each thing what is known of it up to there, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.data.toy import toy_vocabulary
from sanakit.pocket.words.teaching.asked_texts import BESIDE, COLOUR_WORDS, PLACED, ROLES, AskedTexts


@pytest.fixture(scope="module")
def texts() -> AskedTexts:
    return AskedTexts(toy_vocabulary())


def index(texts: AskedTexts, name: str) -> int:
    return texts.vocabulary.texts.index(name)


def test_a_form_is_filled_and_its_marks_end_where_the_thing_is_known(texts: AskedTexts):
    fox, key = index(texts, "fox"), index(texts, "key")
    asked = texts.pair("{a}[a] to the left of[a left] {b}[b right]", fox, key)
    assert asked.text == "a fox to the left of a key"
    told = [(asked.text[: mark.end], mark.thing, mark.role) for mark in asked.marks]
    assert told == [
        ("a fox", fox, -1),
        ("a fox to the left of", fox, ROLES.index("left")),
        ("a fox to the left of a key", key, ROLES.index("right")),
    ]


@pytest.mark.parametrize("form", PLACED)
def test_every_form_gives_both_things_opposite_roles(texts: AskedTexts, form: str):
    asked = texts.pair(form, 0, 1)
    roles = {mark.thing: ROLES[mark.role] for mark in asked.marks if mark.role >= 0}
    assert set(roles) == {0, 1}
    assert set(roles.values()) in ({"left", "right"}, {"top", "bottom"}, {"big", "small"})


@pytest.mark.parametrize("form", BESIDE)
def test_things_side_by_side_have_no_role(texts: AskedTexts, form: str):
    assert [mark.role for mark in texts.pair(form, 2, 3).marks] == [-1, -1]


def test_a_text_is_a_function_of_the_random_state(texts: AskedTexts):
    first, again = (texts.draw(np.random.default_rng(5)) for _ in range(2))
    assert first.text == again.text
    assert first.marks == again.marks


def test_all_that_is_drawn_has_a_unit_place_and_marks_inside_its_text(texts: AskedTexts):
    random = np.random.default_rng(0)
    colours = 0
    for _ in range(400):
        asked = texts.draw(random)
        assert np.linalg.norm(asked.place) == pytest.approx(1, abs=1e-3)
        for mark in asked.marks:
            assert 0 < mark.end <= len(asked.text)
            if mark.colour >= 0:
                colours += 1
                assert COLOUR_WORDS[mark.colour] in asked.text[: mark.end]
    assert colours > 20


def test_with_few_things_in_company_only_those_come(texts: AskedTexts):
    random = np.random.default_rng(1)
    company = {
        mark.thing
        for asked in (texts.draw(random, few=8) for _ in range(400))
        for mark in asked.marks
        if mark.role >= 0
    }
    assert len(company) <= 13
