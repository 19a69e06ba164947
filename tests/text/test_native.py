"""Text in the dialect of NVIDIA's scripts: what they do with strings and padding, run by transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.gemma2 import Gemma2
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.native import NATIVE_INSTRUCTION, script_prompt, typed_text
from sanakit.text.tokenizer import load_tokenizer
from tests.text.tiny import CONFIG

MAX_TOKENS = 24  # M
TOLERANCE = 2e-5  # of the largest number
LONG = "A red CAT on a table, " * 20


@pytest.fixture(scope="module")
def model() -> Gemma2:
    torch.manual_seed(0)
    model = Gemma2(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def encoder(model, folder) -> TextEncoder:
    return TextEncoder(model, load_tokenizer(folder), max_tokens=MAX_TOKENS, dialect="native")


@pytest.fixture(scope="module")
def hidden(model, folder):
    """All hidden states of a text that is padded on the right to a length, and which of them are real."""
    import transformers

    config = transformers.Gemma2Config(**CONFIG.to_transformers(), attn_implementation="eager")
    theirs = transformers.Gemma2Model(config).eval()
    theirs.load_state_dict(model.state_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def run(text: str, length: int) -> tuple[Tensor, Tensor]:
        words = {"max_length": length, "padding": "max_length", "truncation": True}
        tokens = tokenizer([text], **words, return_tensors="pt")
        states = theirs(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
        return states, tokens.attention_mask[0].bool()

    run.count = lambda text: len(tokenizer(text).input_ids)
    return run


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


# Strings


@pytest.mark.parametrize(
    ("prompt", "kept", "cut"),
    [
        ("  A Red CAT\n", "A Red CAT", None),
        ("A cat --ar 3:4", "A cat", "--ar 3:4"),
        ("A cat --aspect_ratio 16:9 and more", "A cat", "--aspect_ratio 16:9 and more"),
        ("--hw 512:768 a cat", "", "--hw 512:768 a cat"),
        ("A park --hw 1:2 --ar 1:2", "A park", "--hw 1:2 --ar 1:2"),
        ("A park --area", "A park", "--area"),  # they cut wherever the letters stand
    ],
)
def test_a_prompt_keeps_its_capitals_and_loses_its_flags(prompt, kept, cut) -> None:
    told: list[str] = []
    assert script_prompt(prompt, told) == kept
    assert [sentence.split(" was cut off")[0] for sentence in told] == ([] if cut is None else [repr(cut)])


def test_a_negative_prompt_stays_as_it_is_typed() -> None:
    told: list[str] = []
    assert typed_text("  Snow --ar 1:1 ", told) == "  Snow --ar 1:1 "
    assert told == []


@pytest.mark.parametrize("read", [script_prompt, typed_text])
@pytest.mark.parametrize("prompt", [None, 3, "half \ud83d"])
def test_what_is_not_a_text_is_refused(read, prompt) -> None:
    with pytest.raises(SettingsError):
        read(prompt, [])


def test_the_instruction_has_double_quotes_and_is_the_same_otherwise(folder, model) -> None:
    pairs = list(zip(COMPLEX_HUMAN_INSTRUCTION, NATIVE_INSTRUCTION, strict=True))
    assert [pair for pair in pairs if pair[0] != pair[1]] == [("'", '"')] * 2
    assert 'generate an "Enhanced prompt" that' in NATIVE_INSTRUCTION
    own = TextEncoder(model, load_tokenizer(folder), "Draw 'this': ", MAX_TOKENS)
    assert {positive.text for positive, _ in own.windows.values()} == {"Draw 'this': "}


# Features


@pytest.mark.filterwarnings("ignore:The prompt is too long")
@pytest.mark.parametrize("prompt", ["A Red CAT", "a cat --ar 3:4", "", LONG])
def test_features_of_a_prompt_are_those_of_the_scripts(encoder, hidden, prompt) -> None:
    length = hidden.count(NATIVE_INSTRUCTION) + MAX_TOKENS - 2
    text = prompt.split("--ar")[0].strip()
    states, real = hidden(NATIVE_INSTRUCTION + text, length)
    kept = [0, *range(length - MAX_TOKENS + 1, length)]
    (ours,) = encoder.encode([prompt], [])
    assert_close(ours, states[kept][real[kept]])
    usual = encoder.encode([prompt], [], "diffusers")[0]
    assert usual.shape != ours.shape or (usual - ours).abs().max() > 0.01 * ours.abs().max()


@pytest.mark.parametrize("negative", ["", "Snow", "a red cat", LONG])
def test_features_of_a_negative_prompt_are_padded_as_by_the_scripts(encoder, hidden, negative) -> None:
    states, _ = hidden(negative, MAX_TOKENS)
    (ours,) = encoder.encode_negative([negative], [])
    assert_close(ours, states)


def test_the_padding_of_an_empty_prompt_is_one_feature_many_times(encoder) -> None:
    passes = []
    hook = encoder.model.register_forward_pre_hook(lambda _, args: passes.append(tuple(args[0].shape)))
    (features,) = encoder.encode_negative([""])
    hook.remove()
    assert features.shape == (MAX_TOKENS, CONFIG.width)
    assert torch.equal(features[1:], features[1:2].expand(MAX_TOKENS - 1, -1))
    assert passes[-1] == (1, 1)
    assert torch.equal(features[:1], encoder.encode_negative([""], dialect="diffusers")[0])


def test_a_narrow_window_leaves_padding_finite(folder) -> None:
    """No published model has a window below M; a small one may."""
    from dataclasses import replace

    torch.manual_seed(0)
    narrow = TextEncoder(Gemma2(replace(CONFIG, sliding_window=4)), load_tokenizer(folder), "", MAX_TOKENS)
    for features in narrow.encode_negative(["", "a red cat on a table"], dialect="native"):
        assert torch.isfinite(features).all()


def test_a_cut_flag_is_told_with_each_prompt_that_has_one(encoder) -> None:
    notes: list[str] = []
    encoder.encode(["A cat --ar 3:4", "A cat"], notes)
    assert len(notes) == 1
    assert "--ar 3:4" in notes[0]
    assert "width and height" in notes[0]
    with pytest.warns(UserWarning, match="--ar 3:4"):
        encoder.encode(["A cat --ar 3:4"])
    encoder.encode(["A cat --ar 3:4"], notes, "diffusers")
    assert len(notes) == 1


def test_texts_of_worlds_are_taken_as_they_are_typed_and_not_padded(model, folder) -> None:
    """As diffusers' SanaWMPipeline has it."""
    encoder = TextEncoder(model, load_tokenizer(folder), NATIVE_INSTRUCTION, MAX_TOKENS)
    told: list[str] = []
    positive, negative = encoder.windows["diffusers"]
    assert (
        positive.clean(" A Red --ar 1:1 ", told)
        == negative.clean(" A Red --ar 1:1 ", told)
        == " A Red --ar 1:1 "
    )
    assert not told
    with pytest.raises(SettingsError, match="is a text"):
        positive.clean(3, told)  # pyright: ignore[reportArgumentType]
    assert encoder.encode_negative([""])[0].shape == (1, CONFIG.width)
    ours = encoder.encode(["A Red CAT"])[0]
    assert not torch.equal(ours, encoder.encode(["a red cat"])[0])
