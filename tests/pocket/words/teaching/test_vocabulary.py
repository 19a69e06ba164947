"""Words lie where two made-up teachers put them: foreign names by their thing, kinds pulled to it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sanakit.pocket.words.asked_as import asked_as
from sanakit.pocket.words.teaching.teachers import Teachers
from sanakit.pocket.words.teaching.vocabulary import LANGUAGES, WIDTH, Vocabulary, build_vocabulary
from sanakit.pocket.words.teaching.wordnet import Nouns
from tests.pocket.words.teaching.test_wordnet import DATA, INDEX

LABELS = {
    "en": [
        {"hexcode": "1F436", "label": "dog", "group": 3, "tags": ["pet"]},
        {"hexcode": "1F98A", "label": "fox", "group": 3, "tags": [f"tag{i}" for i in range(300)]},
        {"hexcode": "1F34E", "label": "red apple", "group": 4, "tags": ["fruit"]},
        {"hexcode": "1F1E9", "label": "flag: Germany", "group": 9, "tags": []},
    ],
    "de": [
        {"hexcode": "1F436", "label": "Hund", "tags": ["Haustier"]},
        {"hexcode": "1F98A", "label": "Fuchs"},
        {"hexcode": "1F1E9", "label": "Flagge"},
    ],
}


def teacher(width: int):
    """Texts as the sum of their words' random vectors: what shares words lies near."""

    def word_vector(word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).normal(size=width).astype(np.float32)

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            words = [
                np.random.default_rng(zlib.crc32(word.encode())).normal(size=width) for word in text.split()
            ]
            rows.append(np.sum(words, axis=0))
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return embed


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    labels = {code: LABELS.get(code, LABELS["de"]) for code in ("en", *LANGUAGES)}
    teachers = Teachers(teacher(320), teacher(192), ["dog", "clip", "idea", "hund"])
    return build_vocabulary(Nouns(DATA, INDEX), labels, teachers)


def place(vocabulary: Vocabulary, text: str, language: str) -> np.ndarray:
    pairs = list(zip(vocabulary.texts, vocabulary.languages, strict=True))
    return vocabulary.places[pairs.index((text, language))]


def test_places_are_unit_vectors_of_every_text(vocabulary: Vocabulary):
    assert vocabulary.places.shape == (len(vocabulary.texts), WIDTH)
    for places in (vocabulary.places, vocabulary.longer_places):
        np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, rtol=1e-4)


def test_things_are_what_is_pictured(vocabulary: Vocabulary):
    assert set(vocabulary.concepts) == {"dog", "fox", "red apple"}
    for i, concept in zip(vocabulary.things, vocabulary.concepts, strict=True):
        assert concept.split()[-1] in vocabulary.texts[i]
    assert not any("Germany" in text or text == "Flagge" for text in vocabulary.texts)


def test_a_foreign_name_lies_nearer_to_its_thing_than_to_another(vocabulary: Vocabulary):
    hund, fuchs = place(vocabulary, "Hund", "de"), place(vocabulary, "Fuchs", "de")
    dog, fox = place(vocabulary, "dog", "en"), place(vocabulary, "fox", "en")
    assert hund @ dog > 0.7 > hund @ fox
    assert fuchs @ fox > 0.7 > fuchs @ dog


def test_a_rare_kind_is_pulled_to_its_thing(vocabulary: Vocabulary):
    """The teachers put "basenji" anywhere."""
    assert place(vocabulary, "basenji", "en") @ place(vocabulary, "dog", "en") > 0.5


def test_what_people_call_a_thing_lies_by_it(vocabulary: Vocabulary):
    word = next(word for word, concept in asked_as().items() if concept == "fox")
    assert place(vocabulary, word, "as") @ place(vocabulary, "fox", "en") > 0.7


def test_what_is_saved_is_read_again(vocabulary: Vocabulary, tmp_path: Path):
    vocabulary.save(tmp_path / "words.npz")
    read = Vocabulary.load(tmp_path / "words.npz")
    for name in ("texts", "languages", "things", "concepts", "longer"):
        assert getattr(read, name) == getattr(vocabulary, name)
    np.testing.assert_allclose(read.places, vocabulary.places, atol=1e-3)  # half precision
    np.testing.assert_allclose(read.longer_places, vocabulary.longer_places, atol=1e-3)
