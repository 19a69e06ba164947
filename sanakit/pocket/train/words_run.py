"""From the teachers to a text encoder: the run of the recipe's `pocket-words`, and what it leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.pocket.data import sources
from sanakit.pocket.data.dataset import packages_of
from sanakit.pocket.data.toy import is_toy, toy_vocabulary
from sanakit.pocket.train.words import WordsObjective, start_words, words_tokenizer
from sanakit.pocket.words.teaching.asked_texts import AskedTexts
from sanakit.pocket.words.teaching.teachers import load_teachers
from sanakit.pocket.words.teaching.vocabulary import LANGUAGES, Vocabulary, build_vocabulary
from sanakit.pocket.words.teaching.wordnet import Nouns
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import load_tokenizer, save_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.run import Run, averaged_weights
from sanakit.train.state.average import part_of

WORDS, TOKENIZER = "vocabulary.npz", "tokenizer"  # in the run's folder
FEW = ((150, 16), (300, 48))  # things in company at first: order is learned before all things are
log = logging.getLogger(__name__)


def words_run(
    data: Path, output: Path, text: Gemma2Config, config: TrainConfig, *, captions: Sequence[str] = ()
) -> Run:
    """Teach a text encoder. Vocabulary and tokenizer are made once and kept in the run's folder.

    captions: further texts that the tokenizer is to write in few tokens. Raises DataError where a package
    cannot be fetched.
    """
    output.mkdir(parents=True, exist_ok=True)
    texts = AskedTexts(_vocabulary(data, output / WORDS))
    torch.manual_seed(config.seed)
    fresh = not (output / TOKENIZER / "tokenizer.json").exists()
    if fresh:
        save_tokenizer(words_tokenizer(texts, text.vocab_size, captions), output / TOKENIZER)
    tokenizer = load_tokenizer(output / TOKENIZER)
    model = (start_words(text, tokenizer, texts.vocabulary) if fresh else Gemma2(text)).to(training_device())
    objective = WordsObjective(TextEncoder(model, tokenizer), texts, seed=config.seed, few=FEW)
    return Run(objective, config, lambda _: None)


def taught_encoder(run: Path, text: Gemma2Config) -> TextEncoder:
    """Return the text encoder of a finished words run. Raises DataError if there is none."""
    model = Gemma2(text)
    model.load_state_dict(part_of(averaged_weights(run), "text"))
    return TextEncoder(model.eval().requires_grad_(False), load_tokenizer(run / TOKENIZER))


def _vocabulary(data: Path, file: Path) -> Vocabulary:
    if file.exists():
        return Vocabulary.load(file)
    if is_toy(data):
        vocabulary = toy_vocabulary()
    else:
        cache = packages_of(data)
        log.info("Placing the words by two sentence models: some minutes")
        labels = sources.read_labels(sources.obtain(sources.EMOJIBASE, cache), ("en", *LANGUAGES))
        nouns = Nouns(*sources.read_nouns(sources.obtain(sources.WORDNET, cache)))
        vocabulary = build_vocabulary(nouns, labels, load_teachers(cache))
    vocabulary.save(file)
    return vocabulary
