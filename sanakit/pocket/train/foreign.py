"""Teach a finished model's text encoder that a name in another language is the English one.

The transformer draws from features, and learned nearly all that it draws from English ones. A foreign name
whose last feature is that of the English phrase is therefore drawn as well as it, without a step of the
transformer. The encoder learns towards its own features as they were (the taught copy never changes):

- of a foreign name, bare or in a carrier of its language: at its last token the English phrase's last
  feature, at the tokens before it those of the English words before, or of the article. Where these tokens
  are an English name ("car" of "caracol"), they are left alone: a causal encoder sees the same;
- of English names, and of captions of single things and of scenes: every feature as it was, BOS's among
  them, which is all that a dropped caption has.

Foreign names that are English ones of another thing ("Hut" is a hat in German) are left out: English wins.
Shapes: B texts, L features of a text, E width, K all known things.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.gemma2 import Gemma2
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.data.samples import PocketSample
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.toy import is_toy, toy_names
from sanakit.pocket.data.wording import Wording
from sanakit.pocket.train.drawings import names_by_language
from sanakit.pocket.words.asked_as import names_of
from sanakit.pocket.words.captions import everyday_phrases
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.known_things import ask_for, known_things
from sanakit.pocket.words.teaching.asked_texts import CARRIERS
from sanakit.seeds import numpy_generator
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import clean_prompt
from sanakit.text.known_things import bare_name
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.parts import Part
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.weights import (
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import kept_settings

TEXT = "text"  # name in a run's checkpoint
BARE = 0.6  # share of foreign names without a carrier
BEFORE = 0.2  # weight of a feature before a name's last one
WATCHED = ("de", "es", "fr", "zh")  # languages that are measured
WATCHED_CAPTIONS = 256
SCENES = 4000  # composed ones whose captions are kept
IN_SCENES, BARE_ENGLISH = 0.55, 0.15  # shares of the kept texts
FURTHER_WEIGHT, RARE_WEIGHT = 0.5, 0.03  # of their names, where a common thing's count 1
Captions = Callable[[np.random.Generator], str]
"""Draws an English caption."""


def names_run(
    data: Path, output: Path, source: str | os.PathLike[str], config: TrainConfig, *, kept: float, way: float
) -> Run:
    """Fit the text encoder of a model like pocket to foreign names; `output`/model is that model with it.

    kept: share of the texts that are English captions, whose features stay. way: how far the result goes from
    the source's weights to the trained ones, 1 all of it; the last part moves English more than it teaches.
    Raises DataError without a data set or its packages, SettingsError for a quantised model.
    """
    check_trainable(source)
    pocket = open_pocket(data)
    names = toy_names() if is_toy(data) else names_by_language(data)
    concepts = {row.concept: row for row in pocket.rows}
    names = {concept: own for concept, own in names.items() if concept in concepts}
    listed, left_out = foreign_list(names, _weight)
    if not listed:
        raise SettingsError(f"{data} has no names in other languages: build it by `sana data pocket`.")
    encoder = load_text_encoder(source, device=training_device(), dtype="float32")
    wording, scenes = Wording({}), Scenes(pocket, SCENES)
    english = english_names(names, _weight)
    words = [word for word, concept in english.items() if _weight(concept) > RARE_WEIGHT]
    chances = np.array([_weight(row.concept) for row in pocket.rows])
    sums = (chances / chances.sum()).cumsum()

    def caption(random: np.random.Generator) -> str:
        kind = random.random()
        if kind < BARE_ENGLISH:
            return words[int(random.integers(len(words)))]
        if kind < BARE_ENGLISH + IN_SCENES:
            return wording.scene(scenes.scene(int(random.integers(SCENES))), random)
        row = pocket.rows[min(int(np.searchsorted(sums, random.random())), len(sums) - 1)]
        return wording.single(PocketSample(kind="drawn", weight=1.0), row, random)

    torch.manual_seed(config.seed)
    objective = ForeignObjective(
        encoder,
        listed,
        caption,
        kept=kept,
        english=list(english),
        things={concept: ask_for(concept) for concept in concepts},
        watched=_watched(names),
        seed=config.seed,
    )

    def finish(folder: Path) -> None:
        model = Gemma2(encoder.model.config)
        fill_averaged(model, folder, partial(part_of, name=TEXT))
        with torch.no_grad():
            for trained, before in zip(model.parameters(), objective.taught.model.parameters(), strict=True):
                trained.lerp_(before.to(trained.device), 1 - way)
        taught, kept_ones = with_model(encoder, model), kept_settings(load_settings(source))
        foreign = {concept: list(own.values()) for concept, own in names.items()}
        kept_ones["known_things"] = known_things(concepts, taught, foreign)
        save_diffusers(
            folder / MODEL,
            transformer=load_transformer(source, kind="image", dtype="float32"),
            autoencoder=load_image_autoencoder(source, part="both", dtype="float32"),
            text_encoder=taught,
            dtype=torch.float16,
            **kept_ones,
        )

    note = f"{len(listed):,} names are learned; {left_out} are English names of another thing and left out."
    made_with = MadeWith(
        source=source,
        data=data,
        content=pocket.fingerprint,
        choices={"kept": kept, "way": way, "names": len(listed)},
    )
    return Run(objective, config, finish, (note,), made_with)


@dataclass(frozen=True, slots=True)
class ForeignName:
    """A thing's name in another language. weight: how often it is drawn."""

    concept: str
    code: str
    name: str
    weight: float


@dataclass(frozen=True, slots=True)
class AlignedBatch:
    """A part of a global batch: token ids of B texts, and the features that F of theirs are to become."""

    tails: list[list[int]]
    rows: list[int]  # F, the text of each
    columns: list[int]  # F, its place in the text, BOS = 0
    targets: Tensor  # F E
    shares: Tensor  # F, what each counts in the global batch


def foreign_list(
    names: Mapping[str, Mapping[str, str]], fame: Callable[[str], float]
) -> tuple[list[ForeignName], int]:
    """List the names to learn, and count those left out, which are English names of another thing.

    names: concept -> language code -> name. fame: how often a concept is drawn.
    """
    english = english_names(names, fame)
    found, left_out = [], 0
    for concept, own in names.items():
        for code, name in own.items():
            if english.get(clean_prompt(name), concept) == concept:
                found.append(ForeignName(concept, code, name, fame(concept)))
            else:
                left_out += 1
    return found, left_out


def english_names(concepts: Iterable[str], fame: Callable[[str], float]) -> dict[str, str]:
    """Return the concept that each English name without article stands for: the best known one."""
    english: dict[str, str] = {}
    for concept in sorted(concepts, key=fame, reverse=True):
        for said in (ask_for(concept), *everyday_phrases(concept), *names_of(concept)):
            english.setdefault(clean_prompt(bare_name(said)), concept)
    return english


class ForeignObjective:
    """Fits features of foreign names to English ones, and keeps those of English captions.

    encoder: on its device; it learns. captions: draws what is kept. kept: share of the texts that are kept
    ones. english: names without article, whose features no longer name may claim. things: phrases of all K
    known things, among which names are looked up. watched: language code -> concept -> name, measured.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        names: Sequence[ForeignName],
        captions: Captions,
        *,
        kept: float,
        english: Sequence[str],
        things: Mapping[str, str],
        watched: Mapping[str, Mapping[str, str]],
        seed: int = 0,
    ) -> None:
        self.encoder, self.names, self.captions = encoder, names, captions
        self.kept, self.things, self.watched, self.seed = kept, things, watched, seed
        self.taught = with_model(encoder, deepcopy(encoder.model).eval().requires_grad_(False))
        encoder.model.requires_grad_(True)
        self.model: nn.Module = nn.ModuleDict({TEXT: encoder.model})
        found = encoder.tokenizer.encode_batch([f" {word}" for word in english], add_special_tokens=False)
        self._claimed = {tuple(one.ids) for one in found}
        self._phrases: dict[str, Tensor] = {}
        weights = np.array([name.weight for name in names])
        self._sums = (weights / weights.sum()).cumsum()
        places = self._last(self.taught, list(things.values()))
        self._mean = places.mean(0)
        self._places = F.normalize(places - self._mean, dim=1)
        self._spread = (places - self._mean).square().sum(1).mean()

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Nothing to prepare: texts are drawn when they are requested."""

    def batch(self, step: int, part: Part) -> AlignedBatch:
        """Draw the texts of a part of a step's batch."""
        pairs = []
        for i in range(part.start, part.stop):
            random = numpy_generator(self.seed, step, i)
            if random.random() < self.kept:
                caption = self.captions(random)
                pairs.append((caption, None, caption))
            else:
                pairs.append(self._foreign(random))
        return self.aligned(pairs, part.weight)

    def aligned(self, pairs: Sequence[tuple[str, str | None, str]], weight: float = 1.0) -> AlignedBatch:
        """Find the target of each feature.

        pairs: a text, the foreign name in it (None: the text is kept), and the English phrase.
        weight: of all pairs in the global batch.
        """
        itself = [text for text, name, _ in pairs if name is None or clean_prompt(name) != clean_prompt(text)]
        own = dict(zip(itself, self.taught.encode(itself, notes=[]), strict=True)) if itself else {}
        tails, rows, columns, targets, shares = [], [], [], [], []
        for row, (text, name, phrase) in enumerate(pairs):
            cleaned = clean_prompt(text)
            found = self.encoder.tokenizer.encode(f" {cleaned}", add_special_tokens=False)
            tails.append(found.ids)
            count = len(found.ids)
            if name is None:
                wanted = [(at, own[text][at], 1.0) for at in range(count + 1)]
            else:
                english = self._english(phrase)
                start = 1 + cleaned.index(clean_prompt(name))  # behind the space
                end = start + len(clean_prompt(name))
                ends = [stop for _, stop in found.offsets]
                before = sum(stop <= start for stop in ends) if text in own else 0  # tokens of the carrier
                until = max(before + 1, sum(stop <= end for stop in ends))  # in which the name ends
                wanted = [(at, own[text][at], BEFORE) for at in range(1, before + 1)]
                wanted += [
                    (at, english[max(1, len(english) - 1 - (until - at))], BEFORE)
                    for at in range(before + 1, until)
                    if tuple(found.ids[:at]) not in self._claimed
                ]
                wanted += [(at, english[-1], 1.0) for at in range(until, count + 1)]
            total = sum(part for *_, part in wanted)
            rows += [row] * len(wanted)
            columns += [at for at, *_ in wanted]
            targets += [target for _, target, _ in wanted]
            shares += [part / total * weight / len(pairs) for *_, part in wanted]
        device = self._places.device
        return AlignedBatch(
            tails, rows, columns, torch.stack(targets).float(), torch.tensor(shares, device=device)
        )

    def loss(self, batch: AlignedBatch) -> Tensor:
        """Return the features' squared errors over their variance, a mean over each text, then over texts."""
        features, _ = self.encoder.encode_tokens(batch.tails)
        errors = (features[batch.rows, batch.columns].float() - batch.targets).square().sum(1)
        return (errors * batch.shares).sum() / self._spread

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure how often a name lies nearest to its own thing, by language, and how far English moved."""
        encoder = with_model(self.encoder, cast(Gemma2, cast(nn.ModuleDict, averaged)[TEXT]))
        numbers = {concept: i for i, concept in enumerate(self.things)}
        measured: dict[str, float] = {}
        for code, own in self.watched.items():
            near = F.normalize(self._last(encoder, list(own.values())) - self._mean, dim=1) @ self._places.T
            right = torch.tensor([numbers[concept] for concept in own], device=near.device)
            measured[f"{code}_top1"] = (near.argmax(1) == right).float().mean().item()
        captions = [self.captions(numpy_generator(self.seed + 1, i)) for i in range(WATCHED_CAPTIONS)]
        moved = [
            (new - old).square().sum(1).mean()
            for new, old in zip(encoder.encode(captions, []), self.taught.encode(captions, []), strict=True)
        ]
        return measured | {"moved": (torch.stack(moved).mean() / self._spread).item()}

    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Return an empty image: names are measured, not looked at."""
        return Image.new("RGB", (8, 8), "white")

    def _foreign(self, random: np.random.Generator) -> tuple[str, str, str]:
        chosen = min(int(np.searchsorted(self._sums, random.random())), len(self.names) - 1)
        one, carrier = self.names[chosen], "{}"
        if random.random() >= BARE:
            carriers = CARRIERS.get(one.code, ("{}",))
            carrier = carriers[int(random.integers(len(carriers)))]
        return carrier.format(one.name), one.name, ask_for(one.concept)

    def _english(self, phrase: str) -> Tensor:
        """Features of an English phrase, L E, computed once."""
        if phrase not in self._phrases:
            (self._phrases[phrase],) = self.taught.encode([phrase], notes=[])
        return self._phrases[phrase]

    def _last(self, encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
        """Last features of texts, N E."""
        return torch.stack([features[-1].float() for features in encoder.encode(list(texts), notes=[])])


def with_model(encoder: TextEncoder, model: Gemma2) -> TextEncoder:
    """Return an encoder that reads as another one does, with another model."""
    words = (encoder.tokenizer, encoder.instruction, encoder.max_tokens)
    return TextEncoder(model, *words, dialect=encoder.dialect)


def _weight(concept: str) -> float:
    if concept in COMMON_CONCEPTS:
        return 1.0
    return FURTHER_WEIGHT if concept in FURTHER_CONCEPTS else RARE_WEIGHT


def _watched(names: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return names of well-known things by language code."""
    well_known = [concept for concept in (*COMMON_CONCEPTS, *FURTHER_CONCEPTS) if concept in names]
    found = {
        code: {concept: names[concept][code] for concept in well_known if code in names[concept]}
        for code in WATCHED
    }
    return {code: own for code, own in found.items() if own}
