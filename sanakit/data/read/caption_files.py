"""Read captions from a text file, a JSON file or a table row, in the forms that real data sets use.

Text: every line that is not blank is a caption. Lines end at \\n, \\r\\n or \\r, as in every text file; other
signs that Unicode calls line breaks (U+2028, U+0085) belong to their caption.
JSON or row: "a text", ["several", "texts"], [{"text": ..., "score": ..., "source": ...}], or an object with
any of the keys in TEXT_KEYS, whose values are one of these, and scores beside them under a key of SCORE_KEYS
(one number, or as many as there are texts). A text that is blank or null is left out with its score.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sanakit.data.read.captions import Caption
from sanakit.errors import DataError
from sanakit.reading import split_lines

TEXT_KEYS = ("captions", "caption", "text", "texts", "prompt")
SCORE_KEYS = ("scores", "score", "clip_score", "clipscore")
SOURCE_KEY = "source"


def captions_in_text(content: bytes, name: str) -> tuple[Caption, ...]:
    """Return the captions of a text file, one per line. name: of the file. Raises DataError unless UTF-8."""
    try:
        lines = split_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error.reason}): save it as UTF-8.") from None
    return distinct(Caption(line.strip()) for line in lines)


def captions_in_json(content: bytes, name: str) -> tuple[Caption, ...]:
    """Return the captions of a JSON file. name: of the file. Raises DataError if it is not of this kind."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON ({error}): repair or remove it.") from None
    return captions_in_value(value, name)


def captions_in_value(value: Any, name: str) -> tuple[Caption, ...]:
    """Return the captions of decoded JSON or of a row. name: where it stands, for messages. Raises DataError.

    >>> captions_in_value({"caption": ["a fox", "an animal"], "score": [31, 26.5]}, "row 1")[1]
    Caption(text='an animal', score=26.5, source='')
    """
    try:
        return distinct(_captions(value, name))
    except RecursionError:
        raise DataError(f"{name} has deeply nested lists instead of captions: write texts.") from None


def unused_columns(columns: Iterable[str], used: Iterable[str]) -> dict[str, str]:
    """Return the columns of a table that nothing is read from, with the reason.

    used: those that are read beside captions, scores and their source.
    """
    columns = list(columns)
    scores = [key for key in SCORE_KEYS if key in columns]
    read = {*used, *TEXT_KEYS, *scores[:1], SOURCE_KEY}
    return {
        column: f"is read only where {scores[0]!r} is empty"
        if column in scores
        else f"is not used: captions are read from columns named {', '.join(TEXT_KEYS)}"
        for column in columns
        if column not in read
    }


def distinct(captions: Iterable[Caption]) -> tuple[Caption, ...]:
    """Leave out empty texts, and of captions equal in text and source all but the best scored."""
    found: dict[tuple[str, str], Caption] = {}
    for caption in captions:
        key = caption.text, caption.source
        before = found.get(key)
        if caption.text and (before is None or (before.score or 0) < (caption.score or 0)):
            found[key] = caption
    return tuple(found.values())


def _captions(value: Any, name: str) -> list[Caption]:
    """Return all captions of a value, blank and equal ones too: scores may stand beside them."""
    if value is None:
        return [Caption("")]
    if isinstance(value, str):
        return [Caption(value.strip())]
    if isinstance(value, list | tuple):
        return [caption for one in value for caption in _captions(one, name)]
    if not isinstance(value, Mapping):
        raise DataError(f"{name} has {value!r} instead of a caption: write texts.")
    texts = [c for key in TEXT_KEYS if key in value for c in _captions(value[key], name)]
    scores = next((value[key] for key in SCORE_KEYS if not _is_blank(value.get(key))), None)
    if scores is not None:
        scores = list(scores) if isinstance(scores, list | tuple) else [scores]
        texts = _scored(texts, scores, name)
    source = value.get(SOURCE_KEY)
    if isinstance(source, str) and source:
        texts = [replace(c, source=c.source or source) for c in texts]
    return texts


def _scored(texts: list[Caption], scores: list[Any], name: str) -> list[Caption]:
    """Return the texts that are not blank with their scores. Raises DataError unless there are as many."""
    if len(scores) != len(texts):
        # keys may repeat each other's texts, or be blank
        texts = list({(c.text, c.source): c for c in texts if c.text}.values())
    if not any(c.text for c in texts):
        return []
    if len(scores) != len(texts):
        raise DataError(
            f"{name} has {len(texts)} captions and {len(scores)} scores: write one score per caption."
        )
    pairs = zip(texts, scores, strict=True)
    return [replace(c, score=_number(score, name)) for c, score in pairs if c.text]


def _is_blank(score: Any) -> bool:
    return score is None or (isinstance(score, str) and not score.strip())


def _number(score: Any, name: str) -> float | None:
    try:
        return None if _is_blank(score) else float(score)
    except (TypeError, ValueError):
        raise DataError(f"{name} has the score {score!r}: a score is a number.") from None
