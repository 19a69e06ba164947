r"""The prompts of a request: checked as texts, and weights of their parts, as in "a (red:1.5) apple".

    (text:1.3)   weight 1.3       (text)   weight 1.1       ((text:1.2):1.5)   nested ones multiply: 1.8
    \( \) \: \\ \[ \]   the sign itself        [text]   stays text, and is told

Source: the notation of AUTOMATIC1111's web UI and of ComfyUI. It is read on request only: prompts hold
parentheses, such as "(16:9)" or "(1950s)", that mean no weight.
A token of weight w counts in cross-attention as w copies of it (`models/weighted.py`). The text encoder sees
the text without signs and weights: its features are those of the plain text.
Shapes: L features of a prompt.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from sanakit.dialect import Dialect
from sanakit.errors import SettingsError, of_setting
from sanakit.models.contracts import TextModel
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import TokenWindow

BARE = 1.1  # the weight of parentheses without a number
MAX_WEIGHT = 10.0  # of a number, and of a product of nested ones
MAX_DEPTH = 20
SHOWN = 40  # characters of a prompt in a sentence

# The runs are bounded, so that no text takes longer than its length.
_SIGNS = re.compile(
    r"\\(?P<kept>[()\[\]:\\])|(?P<open>\()|:\s{0,9}(?P<number>[+-]?[\d.][\d.,eE+-]{0,30})\s{0,9}\)"
    r"|(?P<close>\))|(?P<sign>.)",
    re.DOTALL,
)
# A number behind a number is a ratio, a time or a verse.
_LIKE_A_WEIGHT = re.compile(r"\([^()]{0,200}[^()\s\d:]\s{0,3}:\s{0,3}\d{0,2}\.?\d{1,3}\s{0,3}\)")


@dataclass(frozen=True, slots=True)
class WeightedText:
    """A prompt as it is encoded, and the weights of its characters; none: all 1."""

    text: str
    weights: tuple[float, ...] = ()


def read_weights(prompt: str, told: list[str]) -> WeightedText:
    r"""Return a prompt's text and weights.

    told: takes a sentence if something looks like a weight and is none. Raises SettingsError for parentheses
    without a partner or content, and for weights that are not numbers from 0 to 10.
    >>> read_weights(r"(a \(b\):2)c", [])
    WeightedText(text='a (b)c', weights=(2.0, 2.0, 2.0, 2.0, 2.0, 1.0))
    """
    signs: list[str] = []
    weights: list[float] = []
    opened: list[int] = []  # where each open parenthesis stands
    bracket = False
    for found in _SIGNS.finditer(prompt):
        if found["open"]:
            opened.append(len(signs))
            if len(opened) > MAX_DEPTH:
                raise SettingsError(f"The prompt nests over {MAX_DEPTH} parentheses: write one weight.")
        elif found["close"] or found["number"]:
            weight = BARE if found["close"] else _number(found["number"])
            if not opened:
                raise SettingsError(
                    rf"The prompt has a ) without a (: remove it, or write \). {_near(found)}"
                )
            start = opened.pop()
            if not "".join(signs[start:]).strip():
                raise SettingsError(rf"The prompt weighs nothing: write text between ( and ). {_near(found)}")
            weights[start:] = [one * weight for one in weights[start:]]
        else:
            bracket = bracket or found["sign"] == "["
            signs.append(found["kept"] or found["sign"])
            weights.append(1.0)
    if opened:
        raise SettingsError(r"The prompt has a ( without a ): close it, or write \( for the sign itself.")
    if max(weights, default=1.0) > MAX_WEIGHT:
        raise SettingsError(f"The prompt's nested weights multiply to over {MAX_WEIGHT:g}: lower them.")
    if bracket:
        told.append(
            r"[ ] in the prompt stays text: write (word:0.9) for less weight, \[ for the sign itself."
        )
    return WeightedText("".join(signs), tuple(weights) if set(weights) - {1.0} else ())


def unread_weights(prompts: Sequence[str]) -> tuple[str, ...]:
    """Return what is told where prompts, whose weights are not read, seem to have some."""
    found = next((match[0] for text in prompts if (match := _LIKE_A_WEIGHT.search(text))), None)
    if found is None:
        return ()
    return (
        f"{_short(found)!r} in the prompt is read as text: to weigh these words, switch on prompt weights "
        "(--prompt-weights, prompt_weights=True).",
    )


@of_setting("prompt")
def checked_prompts(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str], most: int
) -> tuple[list[str], list[str]]:
    """Return the prompts, `most` at most, and a negative one for each. Raises SettingsError."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not 1 <= len(prompts) <= most:
        raise SettingsError(
            f"The prompt is {reprlib.repr(prompt)}; it must be a text, or a list of 1 to {most} texts."
        )
    alike = not isinstance(negative_prompt, list | tuple)
    negatives = [cast(str, negative_prompt)] * len(prompts) if alike else negative_prompt
    if len(negatives) != len(prompts):
        raise SettingsError(
            f"negative_prompt has {len(negatives)} texts for {len(prompts)} prompts: pass one for all, or "
            "one for each."
        )
    for text in [*prompts, *negatives]:
        if not isinstance(text, str):
            raise SettingsError(f"A prompt is {reprlib.repr(text)}, but prompts are texts.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise SettingsError("A prompt holds a lone surrogate: type it again, in a terminal set to UTF-8.")
        if "\0" in text:
            raise SettingsError("A prompt holds the character NUL, which no image file can keep: remove it.")
    return list(prompts), list(negatives)


def unheard(negatives: Sequence[str], guidance: float) -> tuple[str, ...]:
    """Return what is told where negative prompts change nothing, as guidance is turned off."""
    if guidance > 1 or not any(negatives):
        return ()
    return (f"The negative prompt changes nothing at guidance {guidance:g}: it needs more than 1.",)


def read_all(
    prompts: Sequence[str], negatives: Sequence[str], prompt_weights: bool
) -> tuple[list[WeightedText], list[WeightedText], list[str]]:
    """Return the texts of a request's prompts and negative prompts, and what its user should know of them.

    prompt_weights: whether weights are read; otherwise all is text. Raises SettingsError.
    """
    if not isinstance(prompt_weights, bool):
        raise SettingsError(f"prompt_weights = {prompt_weights!r}, but it must be True or False.")
    told: list[str] = []
    if prompt_weights:
        with of_setting("prompt"):
            read = {text: read_weights(text, told) for text in prompts}
        with of_setting("negative_prompt"):
            read |= {text: read_weights(text, told) for text in negatives}
    else:
        read = {text: WeightedText(text) for text in (*prompts, *negatives)}
        told += unread_weights([*prompts, *negatives])
    return [read[text] for text in prompts], [read[text] for text in negatives], list(dict.fromkeys(told))


def weigh(
    encoder: TextModel,
    prompts: Sequence[WeightedText],
    negatives: Sequence[WeightedText],
    told: list[str],
    dialect: Dialect,
) -> list[Tensor | None]:
    """Return the weights (L) of the features of negative prompts, then of prompts; None: all are 1.

    told: takes a sentence if characters with a weight were cut off. Raises SettingsError for weights where
    the text model is not ours: it does not tell which token stands for what.
    """
    if not any(text.weights for text in (*prompts, *negatives)):
        return [None] * (len(negatives) + len(prompts))
    if not isinstance(encoder, TextEncoder):
        raise SettingsError("This text model knows no prompt weights: omit them.")
    positive, negative = encoder.windows[dialect]
    pairs = [(text, negative) for text in negatives] + [(text, positive) for text in prompts]
    return [token_weights(encoder.tokenizer, window, text, told) for text, window in pairs]


def token_weights(
    tokenizer: Tokenizer, window: TokenWindow, prompt: WeightedText, told: list[str]
) -> Tensor | None:
    """Return the weights of a prompt's features, L, float32; None: all are 1.

    A token has the mean weight of its characters, white space aside; BOS and the instruction have 1.
    told: as for `weigh`.
    """
    if not prompt.weights:
        return None
    text, source, weights = window.clean(prompt.text, []), prompt.text, list(prompt.weights)
    if text not in source:  # it was put into lower case, in which some characters become two
        weights = [weight for one, weight in zip(source, weights, strict=True) for _ in one.lower()]
        source = source.lower()
    start = source.index(text)
    weights = weights[start : start + len(text)]
    head = len(window.text)

    def weight(first: int, last: int) -> float:
        places = range(max(first - head, 0), max(last - head, 0))
        own = [weights[i] for i in places if not text[i].isspace()] or [weights[i] for i in places]
        return sum(own) / len(own) if own else 1.0

    spans = tokenizer.encode(window.text + text).offsets
    cut = next((span for span in spans[window.limit :] if weight(*span) != 1), None)
    if cut:
        words = _short(text[max(cut[0] - head, 0) :].strip())
        told.append(f"The prompt's weights from {words!r} on have no effect: that part was cut off.")
    found = [1.0, *(weight(*span) for span in spans[window.first_kept : window.limit])]
    return torch.tensor(found, dtype=torch.float32) if set(found) - {1.0} else None


def fitted(weights: Tensor | None, length: int) -> Tensor | None:
    """Return weights for so many features: the first ones, and 1 for padding behind them."""
    return None if weights is None else F.pad(weights[:length], (0, max(0, length - len(weights))), value=1.0)


def _number(text: str) -> float:
    """Return a weight. Raises SettingsError."""
    try:
        weight = float(text)
    except ValueError:
        raise SettingsError(
            rf"The weight {text!r} is not a number: write it as in (word:1.3), or \: for text."
        ) from None
    if not 0 <= weight <= MAX_WEIGHT:
        raise SettingsError(
            rf"The weight {text} is not from 0 to {MAX_WEIGHT:g}: change it, or write \: for text."
        )
    return weight


def _near(found: re.Match[str]) -> str:
    """Return the place of a fault."""
    return f"It stands after {found.string[max(0, found.start() - SHOWN) : found.start()]!r}."


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
