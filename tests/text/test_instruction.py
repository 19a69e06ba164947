"""The instruction against diffusers' default, and the bookkeeping against the published formula."""

from __future__ import annotations

import inspect

import diffusers
import pytest
from tokenizers import Tokenizer

from sanakit.errors import SettingsError
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION, clean_prompt, instruction_window
from sanakit.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a red cat on a red table, catalog"] * 20 + [COMPLEX_HUMAN_INSTRUCTION], 512)


def test_the_instruction_equals_the_default_of_diffusers_byte_for_byte():
    default = (
        inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default
    )
    assert COMPLEX_HUMAN_INSTRUCTION.encode() == "\n".join(default).encode()


def test_all_tokens_but_the_last_space_of_the_instruction_are_shared(tokenizer):
    window = instruction_window(tokenizer, COMPLEX_HUMAN_INSTRUCTION, 300)
    ids = tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION).ids
    assert window.prefix == tuple(ids[:-1])
    assert (window.first_kept, window.limit) == (len(ids) - 1, len(ids) + 298)


@pytest.mark.parametrize(
    "instruction", [COMPLEX_HUMAN_INSTRUCTION, "draw a cat", "draw: ", "draw a \n", "", "a"]
)
@pytest.mark.parametrize("prompt", ["", "a red cat", "alog", "猫", "🎨" * 400, ", <eos>", "red " * 400])
def test_prefix_tail_and_rest_are_the_tokens_of_instruction_and_prompt(tokenizer, instruction, prompt):
    window = instruction_window(tokenizer, instruction, 300)
    tail, dropped = window.tail(tokenizer, prompt)
    assert [*window.prefix, *tail, *dropped] == tokenizer.encode(instruction + prompt).ids
    assert len(window.prefix) <= window.first_kept
    kept = len(window.prefix) + len(tail) - window.first_kept + 1
    assert kept <= 300
    assert not dropped or kept == 300


def test_a_prompt_that_changes_the_shared_tokens_is_refused(tokenizer):
    words = Tokenizer.from_str(tokenizer.to_str())
    window = instruction_window(words, "a cat ", 300)
    words.add_tokens(["t dog"])  # a token across two words, which Gemma's vocabulary has not
    window.tail(words, "doe")
    with pytest.raises(SettingsError, match="space"):
        window.tail(words, "dog")


@pytest.mark.parametrize("prompt", ["\ud83d", "a \udc00 cat"])
def test_half_a_surrogate_pair_is_refused(prompt):
    with pytest.raises(SettingsError, match="surrogate"):
        clean_prompt(prompt)


def test_prompts_are_lower_cased_and_stripped():
    assert clean_prompt("  A Red  CAT\n\u3000") == "a red  cat"
    with pytest.raises(SettingsError, match="int"):
        clean_prompt(3)


def test_room_for_one_token_is_refused(tokenizer):
    with pytest.raises(SettingsError, match="max_tokens is 1"):
        instruction_window(tokenizer, "", 1)
