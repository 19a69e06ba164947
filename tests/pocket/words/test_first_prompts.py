from __future__ import annotations

from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import FIRST_PROMPTS, UNKNOWN_PROMPTS, is_first_prompt, plain


def test_there_are_100_prompts_and_40_unknown_ones():
    assert len({plain(prompt) for prompt in FIRST_PROMPTS}) == 100
    assert len({plain(prompt) for prompt in UNKNOWN_PROMPTS}) == 40


def test_every_prompt_has_a_right_answer():
    assert all(FIRST_PROMPTS.values())


def test_no_answer_is_so_wide_that_guessing_would_pass():
    assert max(map(len, FIRST_PROMPTS.values())) <= 7


def test_capitals_and_full_stops_make_no_other_prompt():
    assert is_first_prompt("Draw me a PANDA.")
    assert is_first_prompt("photo of a red rose 4k")
    assert not is_first_prompt("draw me a zebra")


def test_unknown_prompts_name_no_common_thing():
    names = {concept.lower() for concept in COMMON_CONCEPTS}
    assert not [prompt for prompt in UNKNOWN_PROMPTS if names & set(plain(prompt).split())]
