"""Words that pocket's text encoder is taught, and where each lies in the space of two sentence models.

Words: CLDR's names and keywords of all pictured concepts in twelve languages, WordNet's nouns for physical
things, every WordNet kind of a pictured thing ("poodle" of "dog"), and what people call a thing (`asked_as`).

A place is a unit vector of 256: both teachers' mean over three ways of asking, centred, on their principal
components, turned at random so that no axis carries more than another. A foreign CLDR name lies where the
English one does; a rare kind of a thing is pulled towards that thing, which the teachers may not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sanakit.pocket.words.asked_as import asked_as
from sanakit.pocket.words.captions import everyday_phrases, is_kept
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.teaching.teachers import Embed, Teachers
from sanakit.pocket.words.teaching.wordnet import Nouns
from sanakit.text.known_things import bare_name
from sanakit.whole import written_whole

LISTS, PLACES = ("texts", "languages", "things", "concepts", "longer"), ("places", "longer_places")
LANGUAGES = ("de", "es", "fr", "zh", "it", "pt", "nl", "ja", "ko", "pl", "ru")
WIDTH = 256
FORMS = ("{}", "a {}", "a picture of a {}")  # their mean is steadier than a bare word
ADJECTIVES = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"),
    *("big", "small", "cute", "old", "happy", "sad", "wooden", "flying", "dark", "running", "sleeping"),
)
DESCRIBED = 25_000  # texts "a blue dog"
LONGEST_GLOSS = 60  # characters; long texts pad their batch


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The texts to teach, and where each lies.

    texts: N words or names. places: N 256, unit. languages: N codes; "as": what people call a thing in
    English, "xx": words of several languages. things: indices of texts that name a pictured concept, and
    `concepts` their CLDR labels. longer: M texts that are not names, with places of their own.
    """

    texts: list[str]
    places: np.ndarray
    languages: list[str]
    things: list[int]
    concepts: list[str]
    longer: list[str]
    longer_places: np.ndarray

    def save(self, path: Path) -> None:
        """Write an .npz file, whole or not at all; places in half precision."""
        lists = {name: getattr(self, name) for name in LISTS}
        places = {name: getattr(self, name).astype(np.float16) for name in PLACES}
        with written_whole(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **lists, **places)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        with np.load(path) as file:
            lists = {name: file[name].tolist() for name in LISTS}
            places = {name: file[name].astype(np.float32) for name in PLACES}
        return cls(**lists, **places)


def build_vocabulary(nouns: Nouns, labels: Mapping[str, Sequence[dict]], teachers: Teachers) -> Vocabulary:
    """Collect the words and place them; about four minutes of one core.

    labels: language code -> CLDR's rows, as emojibase-data has them ("en" among them).
    """
    rows = {code: {row["hexcode"]: row for row in own} for code, own in labels.items()}
    kept = {key: row for key, row in rows["en"].items() if is_kept(row["label"], *_groups(row))}
    names = {key: [bare_name(said) for said in everyday_phrases(row["label"])] for key, row in kept.items()}
    frequent = {piece.lower() for piece in teachers.pieces}
    kinds = nouns.kinds({name for some in names.values() for name in some}, frequent)
    glosses = nouns.frequent(frequent)

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
    space = Space(words, teachers.multilingual, teachers.english)
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
    called = {word: concept for word, concept in asked_as().items() if concept in by_concept}
    own = space.exactly(list(called))  # a puppy stays a little apart from a dog
    add(list(called), _unit(0.25 * own + np.stack([by_concept[one] for one in called.values()])), "as")
    for code in LANGUAGES:
        foreign = {key: rows[code][key] for key in kept if rows[code].get(key, {}).get("label")}
        said = [row["label"] for row in foreign.values()]
        own = np.stack([places[index[names[key][0]]] for key in foreign])
        add(said, _unit(0.5 * space.foreign(said)[0] + own), code)
        tags = list({tag for row in foreign.values() for tag in row.get("tags", ())} - set(said))
        add(tags, space.foreign(tags)[0], code)
    other = [word for word in dict.fromkeys(frequent) if word not in index and _is_word(word)]
    at, near = space.foreign(other)  # many languages' frequent words: those that mean an English noun stay
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
    return [index[bare_name(phrase)] for phrase in COMMON_CONCEPTS.values()]
