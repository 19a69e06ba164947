"""A text encoder of toy words, as it is before it is taught."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.gemma2 import Gemma2Config
from sanakit.pocket.data.toy import toy_vocabulary
from sanakit.pocket.train.words import WordsObjective, start_words, words_tokenizer
from sanakit.pocket.words.teaching.asked_texts import AskedTexts
from sanakit.text.encoder import TextEncoder

TINY = Gemma2Config(
    vocab_size=1024,
    width=256,
    depth=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp_width=64,
    query_scalar=16,
    sliding_window=32,
    sliding_layers=(True, True),
)


@pytest.fixture(scope="module")
def objective() -> WordsObjective:
    torch.manual_seed(0)
    texts = AskedTexts(toy_vocabulary())
    tokenizer = words_tokenizer(texts, TINY.vocab_size)
    return WordsObjective(TextEncoder(start_words(TINY, tokenizer, texts.vocabulary), tokenizer), texts)
