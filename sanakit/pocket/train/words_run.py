"""From the teachers to a text encoder: the run of the recipe's `pocket-words`, and what it leaves behind."""

from __future__ import annotations

import logging
from functools import partial
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
from sanakit.train.record import MadeWith
from sanakit.train.run import Run, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.weights.read.digest import file_digest

WORDS, TOKENIZER = "vocabulary.npz", "tokenizer"  # in the run's folder
FEW = ((150, 16), (300, 48))  # things in company at first: order is learned before all things are
log = logging.getLogger(__name__)


def words_run(data: Path, output: Path, text: Gemma2Config, config: TrainConfig) -> Run:
    """Teach a text encoder; vocabulary and tokenizer are kept in the run's folder, to resume it.

    Raises DataError where a package cannot be fetched.
    """
    resumed = has_checkpoint(output)
    if not resumed:  # what a run left that was stopped before may be of other words
        output.mkdir(parents=True, exist_ok=True)
        _vocabulary(data).save(output / WORDS)
    texts = AskedTexts(Vocabulary.load(output / WORDS))
    torch.manual_seed(config.seed)
    if resumed:
        tokenizer, model = load_tokenizer(output / TOKENIZER), Gemma2(text)
    else:
        tokenizer = words_tokenizer(texts, text.vocab_size)
        save_tokenizer(tokenizer, output / TOKENIZER)
        model = start_words(text, tokenizer, texts.vocabulary)
    encoder = TextEncoder(model.to(training_device()), tokenizer)
    objective = WordsObjective(encoder, texts, seed=config.seed, few=FEW)
    made_with = MadeWith(
        parts={
            name: file_digest(output / name, exact=True) for name in (WORDS, f"{TOKENIZER}/tokenizer.json")
        },
        data=data,
    )
    return Run(objective, config, lambda _: None, made_with=made_with)


def taught_encoder(run: Path, text: Gemma2Config) -> TextEncoder:
    """Return the text encoder of a finished words run. Raises DataError if there is none."""
    model = Gemma2(text)
    fill_averaged(model, run, partial(part_of, name="text"))
    return TextEncoder(model.eval().requires_grad_(False), load_tokenizer(run / TOKENIZER))


def taught_objective(run: Path, text: Gemma2Config) -> WordsObjective:
    """Return what a words run has learned with the heads that read it, to be measured.

    Raises DataError if it is missing.
    """
    objective = WordsObjective(taught_encoder(run, text), AskedTexts(Vocabulary.load(run / WORDS)))
    fill_averaged(objective.heads, run, partial(part_of, name="heads"))
    return objective


def _vocabulary(data: Path) -> Vocabulary:
    if is_toy(data):
        return toy_vocabulary()
    cache = packages_of(data)
    log.info("Placing the words by two sentence models: some minutes")
    labels = sources.read_labels(sources.obtain(sources.EMOJIBASE, cache), ("en", *LANGUAGES))
    nouns = Nouns(*sources.read_nouns(sources.obtain(sources.WORDNET, cache)))
    return build_vocabulary(nouns, labels, load_teachers(cache))
