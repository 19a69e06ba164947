"""Text features against diffusers' SanaPipeline.encode_prompt, and the prefix cache against no cache."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import diffusers
import pytest
import torch
import transformers

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import load_tokenizer
from tests.text.tiny import CONFIG as PLAIN

CONFIG = replace(PLAIN, sliding_window=40)
TOLERANCE = 2e-5
LONG = "a red cat on a table, " * 120
PROMPTS = {
    "short": "A red cat",
    "empty": "",
    "spaces": "  \n ",
    "capitals": "  ÉLÉPHANT and İSTANBUL  ",
    "multilingual": "一只猫 и рыжая кошка नमस्ते",
    "emoji": "🐱👩‍🚀🎨 in space",
    "special": "<eos> cat <pad>",
    "long": LONG,
    "long multilingual": "猫" * 400,
}


@pytest.fixture(scope="module")
def oracle(folder) -> diffusers.SanaPipeline:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(**CONFIG.to_transformers(), attn_implementation="eager")
    model = transformers.Gemma2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return diffusers.SanaPipeline(tokenizer, model, vae=None, transformer=None, scheduler=None)


def load(oracle, folder, **settings) -> TextEncoder:
    model = Gemma2(CONFIG)
    model.load_state_dict(oracle.text_encoder.state_dict())
    return TextEncoder(model, load_tokenizer(folder), **settings)


@pytest.fixture
def encoder(oracle, folder) -> TextEncoder:
    return load(oracle, folder)


def published(oracle, prompts, negatives, instruction=COMPLEX_HUMAN_INSTRUCTION, max_tokens=300):
    """Features of diffusers with the masked ones dropped: two lists of L E."""
    with torch.no_grad():
        out = oracle.encode_prompt(
            prompts,
            negative_prompt=negatives,
            device="cpu",
            max_sequence_length=max_tokens,
            complex_human_instruction=instruction.split("\n") if instruction else None,
        )
    embeds, mask, negative_embeds, negative_mask = out
    real = [row[kept.bool()] for row, kept in zip(embeds, mask, strict=True)]
    return real, [row[kept.bool()] for row, kept in zip(negative_embeds, negative_mask, strict=True)]


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= TOLERANCE * other.abs().max()


@pytest.mark.filterwarnings("ignore:The prompt is too long")
@pytest.mark.parametrize("name", PROMPTS)
def test_features_equal_diffusers(encoder, oracle, name):
    text = PROMPTS[name]
    real, negative = published(oracle, [text], [text])
    assert_close(encoder.encode([text]), real)
    assert_close(encoder.encode_negative([text]), negative)


@pytest.mark.filterwarnings("ignore:The prompt is too long")
def test_a_batch_of_unlike_prompts_equals_diffusers_and_each_alone(encoder, oracle):
    texts = list(PROMPTS.values()) * 2  # more than one pass of the model
    ours, negatives = encoder.encode(texts), encoder.encode_negative(texts)
    assert_close(ours, [encoder.encode([text])[0] for text in texts])
    real, negative = published(oracle, texts, texts)
    assert_close(ours, real)
    assert_close(negatives, negative)


@pytest.mark.filterwarnings("ignore:The prompt is too long")
@pytest.mark.parametrize("instruction", ["", "Draw: ", "Draw a ca", "one\ntwo\n"])
@pytest.mark.parametrize("text", ["T and a dog", LONG])
def test_other_instructions_and_limits_equal_diffusers(oracle, folder, instruction, text):
    encoder = load(oracle, folder, instruction=instruction, max_tokens=40)
    real, _ = published(oracle, [text], [""], instruction, max_tokens=40)
    assert_close(encoder.encode([text]), real)


def test_the_empty_negative_prompt_is_the_first_feature_of_every_prompt(encoder):
    (constant,) = encoder.encode_negative([""])
    assert constant.shape == (1, CONFIG.width)
    for features in encoder.encode(["a red cat", ""]):
        assert torch.allclose(features[:1], constant, atol=1e-5)
        assert not torch.allclose(features[1:2], constant, atol=1e-2)
    assert encoder.encode([]) == []


def test_a_second_prompt_runs_only_its_own_tokens_through_the_model(encoder):
    seen = []
    encoder.model.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    encoder.encode(["a red cat"])
    encoder.encode(["a red cat"])
    encoder.encode_negative([""])
    encoder.encode_negative([""])
    prefix = len(encoder.instructed.prefix)
    assert prefix == len(encoder.tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION).ids) - 1
    assert seen == [(1, prefix), (1, 3), (1, 3), (1, 1)]


def test_changed_weights_are_never_answered_from_the_old_prefix(encoder):
    before = encoder.encode(["a red cat"])[0]
    optimizer = torch.optim.SGD(encoder.model.parameters(), lr=0.1)
    encoder.model(torch.tensor([[2, 300, 301]])).sum().backward()
    optimizer.step()
    after = encoder.encode(["a red cat"])[0]
    fresh = TextEncoder(encoder.model, encoder.tokenizer).encode(["a red cat"])[0]
    assert torch.equal(after, fresh)
    assert (after - before).abs().max() > 1e-3
    assert encoder.model.bfloat16() is encoder.model
    assert encoder.encode(["a red cat"])[0].dtype == torch.bfloat16


def test_training_features_and_gradients_equal_transformers(encoder, oracle):
    texts = ["a red cat", "", "on a table, a red cat"]
    encoder.encode(texts)  # keeps a prefix without gradients, which training must not use
    features, mask = encoder.encode_tokens(encoder.tokenize(texts))
    theirs = oracle.text_encoder
    theirs.zero_grad()
    real = []
    for text in texts:
        ids = torch.tensor([encoder.tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION + text).ids])
        hidden = theirs(ids).last_hidden_state[0]
        real.append(torch.cat([hidden[:1], hidden[encoder.instructed.first_kept :]]))
    ours = [row[kept] for row, kept in zip(features, mask, strict=True)]
    assert_close([row.detach() for row in ours], [row.detach() for row in real])
    weight = torch.randn(CONFIG.width, generator=torch.Generator().manual_seed(3))
    (features * mask[..., None] * weight).sum().backward()
    sum((row * weight).sum() for row in real).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in encoder.model.named_parameters():
        error = (parameter.grad - expected[name].grad).abs().max() / expected[name].grad.abs().max()
        assert error < TOLERANCE, name
    assert_close(encoder.encode(texts), [row.detach() for row in ours])


def test_a_cut_prompt_warns_how_much_was_dropped_and_a_full_one_does_not(encoder):
    words = "cat " * 298 + "cat"  # 299 tokens: with BOS exactly 300 features
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(encoder.encode([words])[0]) == 300
    with pytest.warns(UserWarning, match=r"its last 2 tokens, from ' ?red cat' on, were cut off"):
        assert len(encoder.encode([words + " red cat"])[0]) == 300


@pytest.mark.filterwarnings("ignore:The prompt is too long")
def test_a_prompt_of_100000_characters_takes_about_as_long_as_one_of_3000(encoder):
    def seconds(text: str) -> float:
        start = time.perf_counter()
        encoder.encode([text])
        return time.perf_counter() - start

    seconds("warm up")
    assert seconds("猫c" * 50_000) < seconds("猫c" * 1500) + 2.0


def test_what_is_no_text_and_a_foreign_tokenizer_are_refused(encoder):
    with pytest.raises(SettingsError, match="str"):
        encoder.encode([None])
    with pytest.raises(SettingsError, match="list"):
        encoder.encode("a red cat")
    small = Gemma2Config(
        vocab_size=560, width=8, depth=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8, query_scalar=8
    )
    with pytest.raises(WeightsError, match="600 tokens"):
        TextEncoder(Gemma2(small), encoder.tokenizer)


@pytest.mark.parametrize("encode", ["encode", "encode_negative"])
def test_notes_take_the_place_of_warnings(encoder, encode):
    notes = ["an earlier one"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = getattr(encoder, encode)(["a cat", LONG, "cat " * 400], notes)
    assert [len(row) for row in features[1:]] == [300, 300]
    assert notes[0] == "an earlier one"
    assert len(notes) == 3
    assert all("The prompt is too long" in note and "were cut off" in note for note in notes[1:])
