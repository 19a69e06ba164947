"""The things a model can draw (`known_things.json` in its folder), and whether a prompt asks for any.

    {"format": 1, "threshold": 0.4,
     "things": {"a dog": ["puppy", "hound"], ...}, "unlike": ["an idea", "what do you mean", ...]}

things: a phrase as one asks for it -> other words for it; the best known come first. unlike: texts that ask
for none of them. animated, of models of clips: phrases of those that were learned from animations, while the
others were learned from still images.
Two tests, the cheap one first. Words: a run of words of the prompt is a name of a thing. Places: the prompt's
last feature is nearer to that of a thing than to those of `unlike`, by the threshold. Only the last feature
counts, as all prompts are alike at "a" and "of". Places need some thousand encoded prompts, so they are
computed once per encoder, when words fail.
Shapes: T things, U unlike texts, E text width.
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import WeightsError
from sanakit.models.contracts import TextModel

FILE, FORMAT = "known_things.json", 1
NEAREST = 3  # things that are named where a prompt has none
UNLIKE_WEIGHT = 0.5  # of the nearest unlike text, taken off the score
SAME = 0.999  # cosine from which a feature is the one it was
SHORTEST = 4  # letters of a singular that is made of a name in the plural: "news" stands for no "new"
SHOWN = 60  # characters of a prompt in a sentence

_ARTICLES = ("a ", "an ", "the ")
_NOT_PLURALS = frozenset({"as", "does", "has", "his", "is", "its", "this", "us", "was"})
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # Thai, Lao, kana, Han


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """A prompt in which nothing is near a known thing."""

    prompt: str
    nearest: tuple[str, ...]  # names of the nearest things, without article

    def sentence(self, model: str) -> str:
        """Return what the user should know, in one line without a remedy."""
        text = " ".join(self.prompt.split())
        text = text if len(text) <= SHOWN else f"{text[: SHOWN - 3].rstrip()}..."
        return f'Nothing in "{text}" is near a thing that {model} knows. Nearest: {", ".join(self.nearest)}.'


@dataclass(frozen=True, slots=True)
class _Places:
    """Unit features of one encoder, the things' mean taken off."""

    probe: Tensor  # E, the first thing's feature as it came
    mean: Tensor  # E
    things: Tensor  # T E
    unlike: Tensor  # U E


class KnownThings:
    """The things of one model. Any thread may ask; see the module's text for the arguments.

    Raises ValueError where there is no thing.
    """

    def __init__(
        self,
        things: Mapping[str, Sequence[str]],
        *,
        threshold: float,
        unlike: Sequence[str] = (),
        animated: Sequence[str] = (),
    ) -> None:
        if not things:
            raise ValueError("There are no known things.")
        if strange := [phrase for phrase in animated if phrase not in things]:
            raise ValueError(f"animated names {strange[0]!r}, which is not among the things")
        self.things = {phrase: tuple(words) for phrase, words in things.items()}
        self.threshold = threshold
        self.unlike = tuple(unlike)
        self.animated = tuple(animated)
        self.phrases = tuple(self.things)
        self._names: dict[str, str] = {}  # words of a name -> its thing's phrase
        for phrase, words in self.things.items():
            for name in (phrase, *words):
                self._names.setdefault(" ".join(_words(bare_name(name))), phrase)
        self._names.pop("", None)
        for name, phrase in list(self._names.items()):  # "grapes" stand for "grape", too
            for form in _singulars(name):
                if len(form) >= SHORTEST:
                    self._names.setdefault(form, phrase)
        self._longest = max(len(name.split()) for name in self._names)
        self._unspaced = max((len(name) for name in self._names if _UNSPACED.search(name)), default=0)
        self._places: WeakKeyDictionary[TextModel, _Places] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path) -> KnownThings | None:
        """Read a model folder's file; None where it has none. Raises WeightsError for a damaged one."""
        path = Path(folder) / FILE
        return cls.read(path) if path.is_file() else None

    @classmethod
    def read(cls, path: Path) -> KnownThings:
        """Read the file itself. Raises WeightsError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls.of(content)
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(
                f"{path} cannot be read ({error}): download the model's folder again."
            ) from None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> KnownThings:
        """Check what a file says. Raises ValueError."""
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise ValueError(f"it is not an object of format {FORMAT}")
        things, unlike, threshold = content.get("things"), content.get("unlike", []), content.get("threshold")
        if not isinstance(things, Mapping):
            raise ValueError("things is not an object")
        animated = content.get("animated", [])
        lists = [list(things), unlike, animated, *things.values()]
        if not all(isinstance(texts, list) and all(isinstance(one, str) for one in texts) for texts in lists):
            raise ValueError("things, unlike and animated are texts and lists of texts")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise ValueError(f"threshold {threshold!r} is not a number")
        if not -1e6 <= threshold <= 1e6:  # nor is NaN
            raise ValueError("threshold is not a number from -1,000,000 to 1,000,000")
        return cls(things, threshold=threshold, unlike=unlike, animated=animated)

    def text(self) -> str:
        """Return the file's text, a line for each thing."""
        rows = (f"{_json(phrase)}: {_json(words)}" for phrase, words in self.things.items())
        lines = ",\n".join(rows)
        head = f'{{"format": {FORMAT}, "threshold": {_json(self.threshold)},\n"unlike": {_json(self.unlike)},'
        head += f'\n"animated": {_json(self.animated)},' if self.animated else ""
        return f'{head}\n"things": {{\n{lines}\n}}}}\n'

    def check(self, prompt: str, encoder: TextModel) -> Unknown | None:
        """Return None where a prompt asks for a known thing, or for nothing at all."""
        if not prompt.strip() or self.named(prompt) is not None:
            return None
        ((score, nearest),) = self.look_up([prompt], encoder)
        if score > self.threshold:
            return None
        return Unknown(prompt=prompt, nearest=tuple(bare_name(phrase) for phrase in nearest))

    def named(self, prompt: str) -> str | None:
        """Return the phrase of a thing that the prompt names, the longest name first; None: it names none."""
        words = _words(prompt)
        for count in range(min(self._longest, len(words)), 0, -1):
            for start in range(len(words) - count + 1):
                run = " ".join(words[start : start + count])
                for form in (run, *_singulars(run)):
                    if form in self._names:
                        return self._names[form]
        if self._unspaced and _UNSPACED.search(prompt):  # scripts without spaces: any part may be a name
            for word in words:
                for count in range(min(self._unspaced, len(word)), 0, -1):
                    for start in range(len(word) - count + 1):
                        part = word[start : start + count]
                        if part in self._names and _UNSPACED.search(part):
                            return self._names[part]
        return None

    @torch.no_grad()
    def look_up(
        self, texts: Sequence[str], encoder: TextModel, count: int = NEAREST
    ) -> list[tuple[float, tuple[str, ...]]]:
        """Return, by features alone, the score of each text and the phrases of the `count` nearest things."""
        probe, *asked = _last_features([self.phrases[0], *texts], encoder)
        places = self._places_of(encoder, probe)
        points = F.normalize(torch.stack(asked) - places.mean, dim=1)
        near, numbers = (points @ places.things.T).topk(min(count, len(self.phrases)), dim=1)
        score = near[:, 0]
        if self.unlike:
            score = score - UNLIKE_WEIGHT * (points @ places.unlike.T).amax(1)
        named = [tuple(self.phrases[number] for number in row) for row in numbers.tolist()]
        return list(zip(score.tolist(), named, strict=True))

    def _places_of(self, encoder: TextModel, probe: Tensor) -> _Places:
        """Return the places of an encoder, computed again when its weights give the probe another feature."""
        with self._lock:
            found = self._places.get(encoder)
            if found is None or F.cosine_similarity(probe, found.probe, dim=0) < SAME:
                features = torch.stack(_last_features([*self.phrases, *self.unlike], encoder))
                things, unlike = features.split([len(self.phrases), len(self.unlike)])
                mean = things.mean(0)
                if len(things) < 2:  # a mean of one would leave nothing of it
                    mean = torch.zeros_like(mean)
                things, unlike = (F.normalize(part - mean, dim=1) for part in (things, unlike))
                found = self._places[encoder] = _Places(probe, mean, things, unlike)
            return found


def bare_name(phrase: str) -> str:
    """Return a phrase without its article.

    >>> bare_name("an ice cream cone"), bare_name("grapes")
    ('ice cream cone', 'grapes')
    """
    for article in _ARTICLES:
        if phrase.startswith(article) and len(phrase) > len(article):
            return phrase.removeprefix(article)
    return phrase


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _words(text: str) -> list[str]:
    """Return the lower-case words of a text: no punctuation, hyphens or possessive endings."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return re.findall(r"[^\W_]+", re.sub(r"'s\b", "", text))


def _singulars(run: str) -> Iterator[str]:
    """Yield the run of words with its last, then its first, word in what may be the singular."""
    words = run.split()
    for form in _singular_forms(words[-1]):
        yield " ".join([*words[:-1], form])
    if len(words) > 1:  # "cups of tea"
        for form in _singular_forms(words[0]):
            yield " ".join([form, *words[1:]])


def _singular_forms(word: str) -> Iterator[str]:
    if len(word) < 3 or word in _NOT_PLURALS or not word.endswith("s") or word.endswith("ss"):
        return
    if word.endswith("ies"):
        yield f"{word[:-3]}y"
    elif word.endswith("ves"):
        yield from (f"{word[:-3]}f", f"{word[:-3]}fe")
    elif word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        yield word[:-2]
    if len(word) > 4 or not word.endswith(("us", "is")):
        yield word[:-1]


def _last_features(texts: Sequence[str], encoder: TextModel) -> list[Tensor]:
    """Return the feature (E, float32, on the CPU) at which each text ends, its punctuation off."""
    bare = [" ".join(_words(text)) or text for text in texts]
    return [features[-1].float().cpu() for features in encoder.encode(bare, notes=[])]
