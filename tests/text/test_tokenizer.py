"""Tokenizers that we train: Gemma's behaviour, and the same ids here and in transformers' classes."""

from __future__ import annotations

import json
import random

import diffusers
import pytest
import transformers
from tokenizers import Tokenizer

from sanakit.errors import OutputError, SettingsError, WeightsError
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

TEXTS = [
    "a red cat",
    "user prompt: two  spaces\n\nand\ta tab",
    "cat, dog; 1234 birds!",
    "猫 и кошка 🎨👩‍🚀 é",
    "<mask> <pad> <eos> <bos><unk> <0x41>",
    "",
    "words " * 400,
    "▁▁ \x00",
]


def captions(count: int) -> list[str]:
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(800)]
    return [
        f"{draw.choice(['a', 'the'])} red cat, {' '.join(draw.choices(words, k=6))}" for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*captions(2000), COMPLEX_HUMAN_INSTRUCTION], 1024)


def test_ids_begin_with_the_special_tokens_and_the_bytes(tokenizer):
    assert tokenizer.get_vocab_size() == 1024
    assert [tokenizer.id_to_token(i) for i in (0, 1, 2, 3, 4, 259)] == [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<0x00>",
        "<0xFF>",
    ]
    assert sorted(tokenizer.get_vocab().values()) == list(range(1024))


def test_training_is_deterministic(tokenizer):
    again = train_tokenizer([*captions(2000), COMPLEX_HUMAN_INSTRUCTION], 1024)
    assert again.to_str() == tokenizer.to_str()
    rare = ["".join(map(chr, range(0x4E00, 0x4F00)))]  # more equally rare signs than there is room for
    assert train_tokenizer(rare, 512).to_str() == train_tokenizer(rare, 512).to_str()


def test_every_ascii_sign_is_a_token_and_rare_signs_never_push_one_out(tokenizer):
    for vocabulary in (tokenizer, train_tokenizer(["".join(map(chr, range(0x4E00, 0x5000))) * 9], 512)):
        assert all(vocabulary.token_to_id(chr(sign)) is not None for sign in range(33, 127))
        assert vocabulary.token_to_id("▁") is not None
    with pytest.raises(SettingsError, match="511"):
        train_tokenizer(["a"], 511)


def test_a_space_only_ever_begins_a_token_and_digits_and_signs_stand_apart(tokenizer):
    learned = [tokenizer.id_to_token(i) for i in range(260, 1024)]
    assert any(token.startswith("▁") and len(token) > 2 for token in learned)
    assert not [token for token in learned if "▁" in token[1:]]
    assert not [t for t in learned if any(c.isalpha() for c in t) and not t.strip("▁").isalpha()]
    assert not [t for t in learned if any(c.isdigit() for c in t) and len(t.strip("▁")) > 1]


def test_the_first_word_merges_with_the_space_before_it(tokenizer):
    alone = tokenizer.encode("prompt: ").tokens
    followed = tokenizer.encode("prompt: cat").tokens
    assert alone[-1] == "▁"
    assert followed == [*alone[:-1], "▁cat"]


def test_unknown_signs_become_bytes_and_typed_byte_names_do_not(tokenizer):
    assert tokenizer.encode("猫").tokens == ["<bos>", "<0xE7>", "<0x8C>", "<0xAB>"]
    assert "<0x41>" not in tokenizer.encode("<0x41>").tokens


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizer, text):
    plain = text if "<pad>" not in text else "<mask> <0x41>"
    assert tokenizer.decode(tokenizer.encode(plain).ids) == plain.replace("▁", " ")


@pytest.mark.parametrize("loader", ["AutoTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast"])
def test_saved_folders_give_the_same_ids_in_transformers(tokenizer, tmp_path, loader):
    save_tokenizer(tokenizer, tmp_path)
    theirs = getattr(transformers, loader).from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert theirs.padding_side == "right"
    assert len(theirs) == 1024
    for text in TEXTS:
        assert ours.encode(text).ids == tokenizer.encode(text).ids == theirs(text).input_ids
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.bos_token_id, theirs.unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("name", ["GemmaTokenizerFast", "PreTrainedTokenizerFast"])
def test_the_pipeline_of_diffusers_opens_a_saved_folder_and_gives_the_same_ids(tokenizer, tmp_path, name):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    empty = {part: [None, None] for part in ("text_encoder", "vae", "transformer", "scheduler")}
    index = {"_class_name": "SanaPipeline", "tokenizer": ["transformers", name], **empty}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    theirs = diffusers.SanaPipeline.from_pretrained(tmp_path, **dict.fromkeys(empty)).tokenizer
    for text in TEXTS:
        assert theirs(text).input_ids == tokenizer.encode(text).ids


def test_loading_drops_padding_and_truncation_and_takes_the_file_too(tokenizer, tmp_path):
    padded = Tokenizer.from_str(tokenizer.to_str())
    padded.enable_padding(length=20)
    padded.enable_truncation(4)
    save_tokenizer(padded, tmp_path)
    text = "a red cat with a very long tail"
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(text).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize("content", [None, b"", b"junk", json.dumps({"model": {}}).encode()])
def test_unreadable_tokenizers_are_refused_with_their_path(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_an_unwritable_folder_is_an_output_error(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_tokenizer(tokenizer, tmp_path / "file")
