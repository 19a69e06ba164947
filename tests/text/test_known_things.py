"""Prompts against a small list of things, with made-up features: what is compared, and how often."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sanakit.errors import WeightsError
from sanakit.text.encoder import TextEncoder
from sanakit.text.known_things import FILE, KnownThings, Unknown

THINGS = {
    "a dog": ("puppy", "hound"),
    "a wolf": (),
    "an ice cream": ("cup of ice",),
    "a cherry": (),
    "grapes": (),
    "a T-Rex": ("dinosaur",),
    "a knife": (),
    "一只猫": ("猫",),
}
UNLIKE = ("an idea", "what is this")


class Toy:
    """A TextEncoder's stand-in: a text lies where its last word does; `doge` by `dog`, `idea` by `this`."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift, self.encoded = shift, 0

    def encode(self, prompts: Sequence[str], notes: list[str] | None = None) -> list[Tensor]:
        self.encoded += len(prompts)
        return [torch.stack([torch.ones(16), self._place(prompt.split()[-1])]) for prompt in prompts]

    def _place(self, word: str) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, word.removesuffix("e"))))
        place = torch.randn(16, generator=generator)
        if word in ("idea", "this", "thought"):
            place = 0.3 * place + torch.arange(16.0) - 7.5
        return place + self.shift * torch.linspace(-1, 1, 16).sign()


def toy(shift: float = 0.0) -> tuple[TextEncoder, Toy]:
    made = Toy(shift)
    return cast("TextEncoder", made), made


@pytest.fixture
def known() -> KnownThings:
    return KnownThings(THINGS, threshold=0.5, unlike=UNLIKE)


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("dog", "a dog"),
        ("Draw me a PUPPY, please!", "a dog"),
        ("two dogs", "a dog"),
        ("three wolves", "a wolf"),
        ("knives", "a knife"),
        ("cherries on a cake", "a cherry"),
        ("a grape", "grapes"),
        ("ice-cream", "an ice cream"),
        ("cups of ice", "an ice cream"),
        ("the dog\u2019s bone", "a dog"),
        ("t rex", "a T-Rex"),
        ("dinosaurs", "a T-Rex"),
        ("画猫吧", "一只猫"),
    ],
)
def test_a_thing_is_known_by_its_words(known, prompt, phrase) -> None:
    encoder, made = toy()
    assert known.named(prompt) == phrase
    assert known.check(prompt, encoder) is None
    assert made.encoded == 0, "words were enough"


@pytest.mark.parametrize("prompt", ["doglike", "hot dos", "ice and cream", "does", "a hedge", "12345", "🐶"])
def test_words_that_only_look_alike_name_nothing(known, prompt) -> None:
    assert known.named(prompt) is None


def test_the_longest_name_counts() -> None:
    known = KnownThings({"a dog": (), "a hot dog": ()}, threshold=0.0)
    assert known.named("a hot dog with mustard") == "a hot dog"


def test_a_word_that_lies_by_a_thing_is_known_by_its_place(known) -> None:
    assert known.named("a doge") is None
    assert known.check("a doge", toy()[0]) is None


def test_a_text_that_lies_by_unlike_ones_is_told_with_the_nearest_things(known) -> None:
    found = known.check("a new thought", toy()[0])
    assert found is not None
    assert found.prompt == "a new thought"
    assert len(set(found.nearest)) == 3
    assert set(found.nearest) <= {"dog", "wolf", "ice cream", "cherry", "grapes", "T-Rex", "knife", "一只猫"}


def test_unlike_texts_lower_the_score(known) -> None:
    alone = KnownThings(THINGS, threshold=0.5)
    ((with_them, _),) = known.look_up(["a new thought"], toy()[0])
    ((without, _),) = alone.look_up(["a new thought"], toy()[0])
    assert with_them < without - 0.2


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_an_empty_prompt_asks_for_nothing_and_is_not_told(known, prompt) -> None:
    assert known.check(prompt, toy()[0]) is None


def test_places_are_computed_once_for_an_encoder_and_again_when_its_weights_change(known) -> None:
    encoder, made = toy()
    all_texts = len(THINGS) + len(UNLIKE)
    for text in ("a new thought", "thought", "no idea"):
        known.check(text, encoder)
    assert made.encoded == all_texts + 3 * 2  # each prompt with the probe
    before = known.look_up(["thought"], encoder)
    made.shift = 2.0
    after = known.look_up(["thought"], encoder)
    assert made.encoded == 2 * all_texts + 5 * 2
    assert before != after
    assert after == KnownThings(THINGS, threshold=0.5, unlike=UNLIKE).look_up(["thought"], toy(2.0)[0])


def test_many_threads_compute_the_places_once(known) -> None:
    encoder, made = toy()
    results: list[Unknown | None] = []
    threads = [
        threading.Thread(target=lambda: results.append(known.check("a thought", encoder))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.encoded == len(THINGS) + len(UNLIKE) + 8 * 2
    assert len(results) == 8
    assert len(set(results)) == 1


def test_an_encoder_that_is_gone_takes_its_places_along(known) -> None:
    encoder, _ = toy()
    known.check("a thought", encoder)
    assert len(known._places) == 1
    del encoder, _
    assert len(known._places) == 0


def test_the_sentence_is_one_short_line() -> None:
    found = Unknown(prompt="quantum\n entanglement", nearest=("dog", "wolf", "fox"))
    assert found.sentence("pocket") == (
        'Nothing in "quantum entanglement" is near a thing that pocket knows. Nearest: dog, wolf, fox.'
    )
    long = Unknown(prompt="word " * 200, nearest=("dog",)).sentence("pocket")
    assert "\n" not in long
    assert len(long) < 150


def test_a_file_is_read_back_as_it_was_written(known, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(known.text(), encoding="utf-8")
    again = KnownThings.load(tmp_path)
    assert again is not None
    assert (again.things, again.unlike, again.threshold) == (known.things, known.unlike, known.threshold)
    assert again.text() == known.text()
    assert '\n"a dog": ["puppy", "hound"],\n' in known.text()
    assert KnownThings.load(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"things": {}},
        {"things": {"a dog": "puppy"}},
        {"things": ["a dog"]},
        {"threshold": "0.4"},
        {"threshold": None},
        {"unlike": "an idea"},
        {"unlike": [3]},
    ],
)
def test_a_damaged_file_is_told_with_its_path(known, tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / FILE).write_text(json.dumps(json.loads(known.text()) | change), encoding="utf-8")
    with pytest.raises(WeightsError, match=FILE):
        KnownThings.load(tmp_path)
    (tmp_path / FILE).write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match=FILE):
        KnownThings.load(tmp_path)


def test_a_model_of_clips_names_the_things_that_it_learned_from_animations(tmp_path: Path) -> None:
    known = KnownThings(THINGS, threshold=0.5, animated=("a wolf", "grapes"))
    (tmp_path / FILE).write_text(known.text(), encoding="utf-8")
    again = KnownThings.load(tmp_path)
    assert again is not None
    assert again.animated == ("a wolf", "grapes")
    assert again.text() == known.text()
    assert KnownThings(THINGS, threshold=0.5).animated == ()
    assert "animated" not in KnownThings(THINGS, threshold=0.5).text()


@pytest.mark.parametrize("animated", [["a cow"], "a dog", [7]])
def test_animated_things_are_among_the_things(tmp_path: Path, animated: object) -> None:
    content = json.loads(KnownThings(THINGS, threshold=0.5).text()) | {"animated": animated}
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(WeightsError, match="animated"):
        KnownThings.load(tmp_path)
