"""From the teachers to a text encoder: the run of the recipe's first stage, and what it leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.pocket.data.asked_texts import AskedTexts
from sanakit.pocket.train.words import WordsObjective, start_words, words_tokenizer
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import load_tokenizer, save_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run

WORDS, HEADS, TOKENIZER = "vocabulary.npz", "heads.safetensors", "tokenizer"
FEW = ((150, 16), (300, 48))  # things in company at first: order is learned before all things are
log = logging.getLogger(__name__)


def words_run(
    data: Path, output: Path, text: Gemma2Config, config: TrainConfig, *, captions: Sequence[str] = ()
) -> Run:
    """Teach a text encoder; vocabulary and tokenizer are made once and kept in the run's folder."""
    output.mkdir(parents=True, exist_ok=True)
    texts = AskedTexts(obtain_vocabulary(data, output))
    torch.manual_seed(config.seed)
    fresh = not (output / TOKENIZER).exists()
    if fresh:
        save_tokenizer(words_tokenizer(texts, text.vocab_size, captions), output / TOKENIZER)
    tokenizer = load_tokenizer(output / TOKENIZER)
    model = start_words(text, tokenizer, texts.vocabulary) if fresh else Gemma2(text)
    return Run(
        WordsObjective(TextEncoder(model, tokenizer), texts, seed=config.seed, few=FEW),
        config,
        lambda _: None,
    )
