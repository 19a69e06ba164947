"""Teach a small Gemma 2 what words mean and who stands where, before any image is drawn.

SANA's strength is a pretrained language model; pocket's encoder is taught by two open sentence models
instead (`words/teaching/vocabulary.py`). The table of tokens learns first, alone, as a bag of words; then all
layers learn, on texts in carriers. Heads that are thrown away afterwards read the features:

- text: mean and last feature lie where the teachers put the text;
- word: the feature at which a thing has been named tells which thing it is;
- role, colour: the same feature tells what the text has said of that thing: left, right, big, blue.

In "a fox to the left of a key" the fox's own token cannot know its place: at "of" both fox and left are
known, so the encoder has to carry the fox there. Features at which nothing is placed learn to say so.
Shapes: B texts, L features of a text, E width, M marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.pocket.words.teaching.asked_texts import COLOUR_WORDS, ROLES, Asked, AskedTexts
from sanakit.pocket.words.teaching.vocabulary import Vocabulary
from sanakit.seeds import numpy_generator
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION, clean_prompt
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.objectives.flow_matching import start_text_encoder
from sanakit.train.parts import Part

INSTRUCTION_REPEATS = 50  # in the tokenizer's texts: makes each word of the instruction one token
THING_REPEATS, ENGLISH_REPEATS = 40, 4  # makes nearly all words of pictured things one token each
TABLE_PASSES = 12
SHARP = 20.0  # what cosines are multiplied by before a softmax


@dataclass(frozen=True, slots=True)
class WordsBatch:
    """A part of a global batch, drawn.

    Marks say at which feature of which text a thing is known, with its role and colour.
    """

    tails: list[list[int]]
    places: Tensor  # B 256
    rows: Tensor  # M, int64
    columns: Tensor  # M, int64, features counted from BOS = 0
    things: Tensor  # M 256, places of the things
    roles: Tensor  # M, int64, -1: unsaid
    colours: Tensor  # M, int64, -1: unsaid
    weight: float


class WordHeads(nn.Module):
    """Heads that read features while the encoder learns; discarded afterwards."""

    def __init__(self, width: int, place: int) -> None:
        super().__init__()
        self.mean, self.last, self.word = (nn.Linear(width, place) for _ in range(3))
        for head in (self.mean, self.last, self.word):
            nn.init.eye_(head.weight)
        self.role = nn.Linear(width, len(ROLES) + 1)  # the last: here no thing's role is said
        self.colour = nn.Linear(width, len(COLOUR_WORDS))


class WordsObjective:
    """Texts drawn again in every step, on the model's device; see the module's text."""

    def __init__(
        self, encoder: TextEncoder, texts: AskedTexts, *, seed: int = 0, few: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Take the encoder to teach and the texts. few: (step, count) in rising order.

        Before that step only `count` things come in company.
        """
        self.encoder, self.texts, self.seed, self.few = encoder, texts, seed, tuple(few)
        width = encoder.model.config.width
        self.heads = WordHeads(width, texts.vocabulary.places.shape[1])
        self.model: nn.Module = nn.ModuleDict({"text": encoder.model, "heads": self.heads})
        self.device = next(encoder.model.parameters()).device

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Nothing to prepare: texts are drawn when they are requested."""

    def batch(self, step: int, part: Part) -> WordsBatch:
        """Draw the texts of a part of a step's batch."""
        few = next((count for until, count in self.few if step < until), None)
        drawn = [
            self.texts.draw(numpy_generator(self.seed, step, i), few) for i in range(part.start, part.stop)
        ]
        return self.marked(drawn, part.weight)

    def marked(self, texts: Sequence[Asked], weight: float = 1.0) -> WordsBatch:
        """Tokenise texts and find the features of their marks."""
        cleaned = [clean_prompt(asked.text) for asked in texts]
        found = self.encoder.tokenizer.encode_batch(
            [f" {text}" for text in cleaned], add_special_tokens=False
        )
        rows, columns, things, roles, colours = [], [], [], [], []
        for row, (asked, encoded) in enumerate(zip(texts, found, strict=True)):
            starts = [start for start, _ in encoded.offsets]
            for mark in asked.marks:
                rows.append(row)
                # character i of the text is i + 1 behind the space; feature 0 is BOS
                columns.append(sum(start <= mark.end for start in starts))
                things.append(self.texts.vocabulary.places[mark.thing])
                roles.append(mark.role)
                colours.append(mark.colour)
        return WordsBatch(
            tails=[encoded.ids for encoded in found],
            places=torch.from_numpy(np.stack([asked.place for asked in texts])).float().to(self.device),
            rows=torch.tensor(rows, device=self.device),
            columns=torch.tensor(columns, device=self.device),
            things=torch.from_numpy(np.stack(things)).float().to(self.device),
            roles=torch.tensor(roles, device=self.device),
            colours=torch.tensor(colours, device=self.device),
            weight=weight,
        )

    def loss(self, batch: WordsBatch) -> Tensor:
        """Return the sum of all heads' losses, times the part's share of the global batch.

        Texts are compared within a part, so that parts add up to nearly, not exactly, the whole batch's loss.
        """
        return cast(Tensor, sum(self.terms(batch).values())) * batch.weight

    def terms(self, batch: WordsBatch) -> dict[str, Tensor]:
        """Return each head's loss."""
        features, mask = self.encoder.encode_tokens(batch.tails)
        features = features.float()
        words, real = features[:, 1:], mask[:, 1:, None]
        mean = (words * real).sum(1) / real.sum(1)
        last = features[torch.arange(len(features)), mask.sum(1) - 1]
        marked = features[batch.rows, batch.columns]
        placing = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        placing[batch.rows[batch.roles >= 0]] = True
        silent = mask & placing[:, None]  # features of texts that place things, where none is placed
        silent[batch.rows, batch.columns] = False
        unsaid = batch.roles.new_full((int(silent.sum()),), len(ROLES))
        with torch.autocast(features.device.type, enabled=False):
            return {
                "mean": apart(self.heads.mean(mean), batch.places),
                "last": apart(self.heads.last(last), batch.places),
                "word": 2 * apart(self.heads.word(marked), batch.things),
                "role": said(self.heads.role(marked), batch.roles),
                "silent": said(self.heads.role(features[silent]), unsaid),
                "colour": said(self.heads.colour(marked), batch.colours),
            }

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Losses of a batch that is not trained on."""
        parts = cast(nn.ModuleDict, averaged)
        text = TextEncoder(cast(Gemma2, parts["text"]), self.encoder.tokenizer)
        other = WordsObjective(text, self.texts, seed=self.seed + 1)
        other.heads = cast(WordHeads, parts["heads"])
        with torch.no_grad():
            return {
                name: float(term) for name, term in other.terms(other.batch(0, Part(0, 256, 256))).items()
            }

    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Return an empty image: words are measured, not looked at."""
        return Image.new("RGB", (8, 8), "white")


def said(logits: Tensor, right: Tensor) -> Tensor:
    """Mean cross-entropy where something is said (right >= 0); 0, and not NaN, where nothing is."""
    total = F.cross_entropy(logits, right, ignore_index=-1, reduction="sum")
    return total / (right >= 0).sum().clamp(min=1)


def apart(x: Tensor, target: Tensor) -> Tensor:
    """Loss of predicted places M P: to their targets, and as near to the others' as the teachers say."""
    x, soft = F.normalize(x, dim=1), F.softmax(SHARP * target @ target.T, 1)
    chosen = (soft * F.log_softmax(SHARP * x @ target.T, 1)).sum(1).mean()
    return (1 - (x * target).sum(1)).mean() - 0.1 * chosen


def words_tokenizer(texts: AskedTexts, size: int) -> Tokenizer:
    """Learn a vocabulary of tokens in which nearly every English word taught is one token.

    A space stands before every word, as after the instruction.
    """
    words, vocabulary = [], texts.vocabulary
    things = set(vocabulary.things)
    for i, (text, code) in enumerate(zip(vocabulary.texts, vocabulary.languages, strict=True)):
        times = THING_REPEATS if i in things else {"en": ENGLISH_REPEATS, "xx": 0}.get(code, 1)
        words += [f" {word}" for word in clean_prompt(text).split()] * times
    random = np.random.default_rng(0)
    words += [f" {clean_prompt(texts.draw(random).text)}" for _ in range(20_000)]
    return train_tokenizer([COMPLEX_HUMAN_INSTRUCTION] * INSTRUCTION_REPEATS + words, size)


def start_words(config: Gemma2Config, tokenizer: Tokenizer, vocabulary: Vocabulary) -> Gemma2:
    """Return a text encoder whose token table holds the words' meaning as a bag of tokens."""
    model = Gemma2(config)
    start_text_encoder(model)
    said = [*vocabulary.texts, *vocabulary.longer]
    places = torch.from_numpy(np.concatenate([vocabulary.places, vocabulary.longer_places]))
    encoded = tokenizer.encode_batch([f" {clean_prompt(text)}" for text in said], add_special_tokens=False)
    ids = [torch.tensor(one.ids) for one in encoded]
    table = model.embed_tokens.weight.data
    bag = nn.EmbeddingBag.from_pretrained(table.clone(), freeze=False, mode="mean", sparse=True)
    optimizer = torch.optim.SparseAdam(bag.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(TABLE_PASSES):
        for some in torch.randperm(len(said), generator=generator).split(2048):
            tokens = [ids[i] for i in some.tolist()]
            starts = torch.tensor([0, *(len(one) for one in tokens[:-1])]).cumsum(0)
            loss = -F.cosine_similarity(bag(torch.cat(tokens), starts), places[some]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = bag.weight.detach()
    table.copy_(learned / learned.norm(dim=1).median())
    return model
