"""Texts that teach pocket's text encoder: names in carriers, sentences that put two things in their places.

A text comes with marks: at which character a thing has been named, which thing it is, and what the text has
said of it up to there (its part in the image, its colour). A causal encoder can know no more than that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sanakit.pocket.words.scene_words import article
from sanakit.pocket.words.teaching.vocabulary import Vocabulary, common_things

T = TypeVar("T")
ROLES = ("left", "right", "top", "bottom", "big", "small")
COLOUR_WORDS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "gray",
    "black",
    "white",
)
CARRIERS = {
    "en": (
        *(
            "{}",
            "{}",
            "a {}",
            "a {}",
            "the {}",
            "a picture of a {}",
            "draw me a {}",
            "draw a {}",
            "a cute {}",
        ),
        *("photo of a {}, 4k", "logo of a {}", "{}, 3D render", "a drawing of a {}", "{} emoji", "{} icon"),
        *("a flat illustration of a {}", "a cartoon of a {}", "an image of a {}.", "a happy {}", "a big {}"),
        *("a small {}", "a {} on a white background", "please draw a {}", "can you draw a {}?", "my {}"),
        *(
            "a {}, highly detailed",
            "{} clipart",
            "i want a {}",
            "a beautiful {}",
            "a {} please",
            "{}s",
            "two {}s",
        ),
        *("a {} running", "a {} with a hat", "a sleeping {}", "a {}, soft gradient", "a {}, flat vector"),
    ),
    "de": ("{}", "{}", "ein {}", "eine {}", "ein Bild von einem {}", "zeichne {}"),
    "es": ("{}", "{}", "un {}", "una {}", "una imagen de un {}", "dibuja un {}"),
    "fr": ("{}", "{}", "un {}", "une {}", "une image de {}", "dessine un {}"),
    "it": ("{}", "{}", "un {}", "una {}"),
    "pt": ("{}", "{}", "um {}", "uma {}"),
    "nl": ("{}", "{}", "een {}"),
    "zh": ("{}", "{}", "一个{}", "一只{}", "{}的图片", "画一个{}"),
    "ja": ("{}", "{}の絵"),
}
# [a left] marks: up to here the text has said that the thing named {a} is at the left. [a]: it is named.
PLACED = (
    *("{a}[a] to the left of[a left] {b}[b right]", "{a}[a] to the right of[a right] {b}[b left]"),
    *(
        "on the left {a}[a left] and on the right {b}[b right]",
        "on the right {a}[a right] and on the left {b}[b left]",
    ),
    *(
        "{a}[a] on the left[a left] and {b}[b] on the right[b right]",
        "left: {a}[a left], right: {b}[b right]",
    ),
    *("{a}[a] on the right[a right] and {b}[b] on the left[b left]", "{a}[a] left of[a left] {b}[b right]"),
    *(
        "{a}[a] right of[a right] {b}[b left]",
        "{a}[a] above[a top] {b}[b bottom]",
        "{a}[a] below[a bottom] {b}[b top]",
    ),
    *(
        "at the top {a}[a top] and at the bottom {b}[b bottom]",
        "at the bottom {a}[a bottom] and at the top {b}[b top]",
    ),
    *(
        "{a}[a] over[a top] {b}[b bottom]",
        "{a}[a] under[a bottom] {b}[b top]",
        "{a}[a] on top of[a top] {b}[b bottom]",
    ),
    *("a big {A}[a big] and a small {B}[b small]", "a small {A}[a small] next to a big {B}[b big]"),
)
CARRIERS["as"] = CARRIERS["en"]
WEIGHTS = {"en": 2.0, "as": 6.0, "xx": 0.4}  # how often a text of a language is drawn
BESIDE = ("{a}[a] and {b}[b]", "{a}[a] next to {b}[b]", "{a}[a] with {b}[b]")
ENDINGS = ("", "", "", " on a white background", ", 3D render", " on a blue background", ", cartoon")
_MARK = re.compile(r"\[(\w)(?: (\w+))?\]")
_SAID = re.compile(r"\{(\w)\}")


@dataclass(frozen=True, slots=True)
class Mark:
    """At character `end` of a text a thing is known.

    role, colour: places in ROLES and COLOUR_WORDS; -1: unsaid.
    """

    end: int
    thing: int
    role: int = -1
    colour: int = -1


@dataclass(frozen=True, slots=True)
class Asked:
    """A text, the place of its meaning (256) and its marks."""

    text: str
    place: np.ndarray
    marks: tuple[Mark, ...] = ()


class AskedTexts:
    """Draws texts from a vocabulary. order: part of texts that put things in company."""

    def __init__(self, vocabulary: Vocabulary, *, order: float = 0.45) -> None:
        self.vocabulary, self.order = vocabulary, order
        self.common = common_things(vocabulary)
        weights = np.array([WEIGHTS.get(code, 0.7) for code in vocabulary.languages])
        weights[vocabulary.things] *= 4
        weights[self.common] *= 5
        self._sums = (weights / weights.sum()).cumsum()

    def draw(self, random: np.random.Generator, few: int | None = None) -> Asked:
        """Draw one text. few: how many things there are in company; None: all pictured ones."""
        kind = random.random()
        if kind < self.order:
            return self._company(random, few)
        if kind < self.order + 0.1:
            return self._coloured(random)
        words = self.vocabulary
        if kind < self.order + 0.2:
            i = int(random.integers(len(words.longer)))
            return Asked(words.longer[i], words.longer_places[i])
        i = min(int(np.searchsorted(self._sums, random.random())), len(words.texts) - 1)
        carrier = _one(random, CARRIERS.get(words.languages[i], ("{}",)))
        name = words.texts[i]
        return Asked(carrier.format(name), words.places[i], (Mark(carrier.index("{") + len(name), i),))

    def pair(self, form: str, first: int, second: int, ending: str = "") -> Asked:
        """Fill a form of PLACED or BESIDE with two things, by their index in the vocabulary."""
        names = self.vocabulary.texts
        thing = {"a": first, "b": second}
        said = {"a": article(names[first]), "b": article(names[second])}
        said |= {"A": names[first], "B": names[second]}
        text, marks = "", []
        for piece in re.split(r"(\[\w(?: \w+)?\]|\{\w\})", form):
            if found := _MARK.fullmatch(piece):
                role = ROLES.index(found[2]) if found[2] else -1
                marks.append(Mark(len(text), thing[found[1]], role))
            elif found := _SAID.fullmatch(piece):
                text += said[found[1]]
            else:
                text += piece
        place = self.vocabulary.places[first] + self.vocabulary.places[second]
        return Asked(text + ending, place / np.linalg.norm(place), tuple(marks))

    def _company(self, random: np.random.Generator, few: int | None) -> Asked:
        pools: Sequence[Sequence[int]] = (self.common, self.common, self.vocabulary.things)
        pool = _one(random, pools) if few is None else self.common[:: max(1, len(self.common) // few)]
        first, second = _one(random, pool), _one(random, pool)
        form = _one(random, PLACED) if random.random() < 0.85 else _one(random, BESIDE)
        return self.pair(form, first, second, _one(random, ENDINGS))

    def _coloured(self, random: np.random.Generator) -> Asked:
        """One or two things of a colour each: the colour is known where the thing is named."""
        things = [
            _one(random, self.common if random.random() < 0.5 else self.vocabulary.things) for _ in "ab"
        ]
        text, marks, place = "", [], np.zeros(self.vocabulary.places.shape[1])
        for thing in things[: 1 + (random.random() < 0.4)]:
            colour = int(random.integers(len(COLOUR_WORDS)))
            text += " and " if text else ""
            text += article(f"{COLOUR_WORDS[colour]} {self.vocabulary.texts[thing]}")
            marks.append(Mark(len(text), thing, colour=colour))
            place = place + self.vocabulary.places[thing]
        return Asked(text + _one(random, ENDINGS), place / np.linalg.norm(place), tuple(marks))


def _one(random: np.random.Generator, some: Sequence[T]) -> T:
    return some[int(random.integers(len(some)))]
