"""How weights are written, told and refused, and which tokens have them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from sanakit.errors import SettingsError
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION, instruction_window
from sanakit.text.native import dialect_windows
from sanakit.text.prompt_weights import (
    WeightedText,
    fitted,
    read_all,
    read_weights,
    token_weights,
    unread_weights,
    weigh,
)
from sanakit.text.tokenizer import load_tokenizer

READ = [  # prompt -> runs of text and their weight
    ("a red apple", [("a red apple", 1)]),
    ("a (red:1.5) apple", [("a ", 1), ("red", 1.5), (" apple", 1)]),
    ("(red)", [("red", 1.1)]),
    ("((red))", [("red", 1.1 * 1.1)]),
    ("(a (red:2) fox:1.5)", [("a ", 1.5), ("red", 3), (" fox", 1.5)]),
    ("(a:0)(b:10)c", [("a", 0), ("b", 10), ("c", 1)]),
    ("( a : 1.5 )", [(" a ", 1.5)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:2.)", [("a", 2)]),
    ("(a:+2)", [("a", 2)]),
    ("(a:5e-1)", [("a", 0.5)]),
    ("(a: b)", [("a: b", 1.1)]),
    ("(a: b:2)", [("a: b", 2)]),
    ("(at 16:9 wide)", [("at 16:9 wide", 1.1)]),
    (r"(16\:9)", [("16:9", 1.1)]),
    ("9:16", [("9:16", 1)]),
    (r"a photo \(1950s\)", [("a photo (1950s)", 1)]),
    (r"(a \(b\):2)", [("a (b)", 2)]),
    (r"\\ \[ \] \n \a", [(r"\ [ ] \n \a", 1)]),
    ("\\", [("\\", 1)]),
    ("[a]", [("[a]", 1)]),
    ("(一只猫:1.5)🦊\n(x:2)", [("一只猫", 1.5), ("🦊\n", 1), ("x", 2)]),
    ("(a:1)", [("a", 1)]),
    ("", [("", 1)]),
]


@pytest.mark.parametrize(("prompt", "runs"), READ, ids=[prompt for prompt, _ in READ])
def test_weights_are_read_as_the_notation_says(prompt: str, runs: list[tuple[str, float]]) -> None:
    found = read_weights(prompt, [])
    assert found.text == "".join(text for text, _ in runs)
    expected = [weight for text, weight in runs for _ in text]
    assert list(found.weights or [1.0] * len(found.text)) == pytest.approx(expected)
    assert bool(found.weights) == (set(expected) - {1} != set())


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (red apple", "without a )"),
        ("a red) apple", "without a ("),
        ("a :) smile", "without a ("),
        ("a red:1.5) apple", "without a ("),
        ("a () b", "weighs nothing"),
        ("a (  :1.5) b", "weighs nothing"),
        ("(a:10.1)", "0 to 10"),
        ("(a:-1)", "0 to 10"),
        ("(a:1e9)", "0 to 10"),
        ("((a:4):4)", "multiply"),
        ("(a:1,5)", "not a number"),
        ("(a:1.2.3)", "not a number"),
        ("(" * 21 + "a" + ")" * 21, "nests over 20"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(prompt: str, words: str) -> None:
    with pytest.raises(SettingsError) as told:
        read_weights(prompt, [])
    assert words in str(told.value)
    assert str(told.value).endswith(".")


def test_square_brackets_are_told_to_be_text() -> None:
    told: list[str] = []
    read_weights(r"\[a\] (b:2)", told)
    assert told == []
    read_weights("[a]", told)
    assert len(told) == 1
    assert "stays text" in told[0]


@pytest.mark.parametrize("text", ["a (red:1.5) apple", "(a fox:2)", "(x : .5)", "(best quality:1.25), a cat"])
def test_weights_that_are_not_read_are_told(text: str) -> None:
    texts, nulls, told = read_all(["a cat", text], ["", text], False)
    assert texts == [WeightedText("a cat"), WeightedText(text)]
    assert nulls == [WeightedText(""), WeightedText(text)]
    assert len(told) == 1
    assert "--prompt-weights" in told[0]


@pytest.mark.parametrize(
    "text", ["a photo (1950s)", "(16:9)", "(John 3:16)", "(a cat)", "a:1.5", "(at 10:30)", "(a: b)", ":)"]
)
def test_other_parentheses_are_not_told(text: str) -> None:
    assert unread_weights([text]) == ()


def test_a_switch_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(SettingsError, match="True or False"):
        read_all(["a"], [""], "yes")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text", ["(" * 16000, "(a:" * 10000, "a:" * 16000, "(a :1" * 6000, ":" + "1" * 31990]
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    unread_weights([text])
    with contextlib.suppress(SettingsError):
        read_weights(text, [])
    assert time.process_time() - started < 2


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def by_token(tokenizer: Tokenizer, prompt: str, instruction: str = COMPLEX_HUMAN_INSTRUCTION, **words):
    """The kept tokens behind BOS and their weights."""
    window = instruction_window(tokenizer, instruction, words.get("max_tokens", 300))
    read, told = read_weights(prompt, []), words.get("told", [])
    found = token_weights(tokenizer, window, read, told)
    tokens = tokenizer.encode(window.text + window.clean(read.text, [])).tokens
    assert found is not None
    assert found[0] == 1  # BOS
    return list(zip(tokens[window.first_kept : window.limit], found[1:].tolist(), strict=True))


@pytest.mark.parametrize("instruction", [COMPLEX_HUMAN_INSTRUCTION, "Draw: ", ""])
def test_tokens_have_the_weights_of_their_characters(tokenizer: Tokenizer, instruction: str) -> None:
    found = by_token(tokenizer, "  A (RED:2.5) cat on ((a):3) table ", instruction)
    words = {token.strip("▁"): weight for token, weight in found}
    assert words["red"] == 2.5
    assert words["cat"] == words["on"] == words["table"] == 1
    assert [weight for token, weight in found if token == "▁a"][-1:] == [pytest.approx(3.3)]


def test_white_space_around_a_word_does_not_thin_its_weight(tokenizer: Tokenizer) -> None:
    inside, outside = by_token(tokenizer, "a( red:2) cat"), by_token(tokenizer, "a (red:2) cat")
    assert inside == outside


def test_a_token_across_two_weights_has_their_mean(tokenizer: Tokenizer) -> None:
    found = dict(by_token(tokenizer, "a (t:3)able"))
    assert found["▁table"] == pytest.approx((3 + 1 + 1 + 1 + 1) / 5)


def test_characters_that_grow_in_lower_case_move_no_weight(tokenizer: Tokenizer) -> None:
    found = by_token(tokenizer, "İİİ (cat:2) ΣΣ a")
    assert [token for token, weight in found if weight != 1] == ["▁cat"]


def test_the_bytes_of_a_character_have_its_weight(tokenizer: Tokenizer) -> None:
    found = by_token(tokenizer, "a (猫:2) cat")
    assert [token for token, weight in found if weight == 2][-3:] == ["<0xE7>", "<0x8C>", "<0xAB>"]
    assert dict(found)["▁cat"] == 1


def test_native_prompts_lose_their_flags_but_no_weight(tokenizer: Tokenizer) -> None:
    positive, negative = dialect_windows(tokenizer, "Draw: ", 300)["native"]
    for window, text in ((positive, " A Red (CAT:2) --ar 3:4"), (negative, " A Red (CAT:2)")):
        read = read_weights(text, [])
        found = token_weights(tokenizer, window, read, [])
        tokens = tokenizer.encode(window.text + window.clean(read.text, [])).tokens[window.first_kept :]
        assert found is not None
        heavy = [token for token, weight in zip(tokens, found[1:].tolist(), strict=True) if weight == 2]
        assert "".join(heavy).strip("▁") == "CAT"


def test_a_weight_behind_the_limit_is_told(tokenizer: Tokenizer) -> None:
    told: list[str] = []
    found = by_token(tokenizer, "(red:2) " + "cat " * 10 + "(table:3) cat", max_tokens=8, told=told)
    assert len(found) == 7
    assert len(told) == 1
    assert "from 'table cat' on have no effect" in told[0]


def test_a_prompt_without_weights_has_none(tokenizer: Tokenizer) -> None:
    window = instruction_window(tokenizer, "", 300)
    assert token_weights(tokenizer, window, WeightedText("a cat"), []) is None
    blank = WeightedText(" a cat", (2.0, *[1.0] * 5))  # a weight of nothing but space at the edge
    assert token_weights(tokenizer, window, blank, []) is None


def test_weights_fit_a_cut_and_a_padded_prompt() -> None:
    weights = torch.tensor([1, 2.0, 3])
    assert fitted(None, 2) is None
    for length, expected in ((2, [1, 2]), (3, [1, 2, 3]), (5, [1, 2, 3, 1, 1])):
        found = fitted(weights, length)
        assert found is not None
        assert found.tolist() == expected


def test_another_text_model_refuses_weights_and_takes_prompts_without() -> None:
    other = object()
    words = ([WeightedText("a"), WeightedText("b")], [WeightedText("")], [], "diffusers")
    assert weigh(other, *words) == [None] * 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="prompt weights"):
        weigh(other, [WeightedText("a", (2.0,))], [], [], "diffusers")  # pyright: ignore[reportArgumentType]
