"""Read captions from a text file, a JSON file or a table row, in the forms that real data sets use.

Text: every line that is not blank is a caption.
JSON or row: "a text", ["several", "texts"], [{"text": ..., "score": ..., "source": ...}], or an object with
any of the keys in TEXT_KEYS, whose values are one of these, and scores beside them under a key of SCORE_KEYS
(one number, or as many as there are texts).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sanakit.data.read.captions import Caption
from sanakit.errors import DataError
from sanakit.reading import split_lines

TEXT_KEYS = ("captions", "caption", "text", "texts", "prompt")
SCORE_KEYS = ("scores", "score", "clip_score", "clipscore")


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
        return _captions(value, name)
    except RecursionError:
        raise DataError(f"{name} has deeply nested lists instead of captions: write texts.") from None


def distinct(captions) -> tuple[Caption, ...]:
    """Leave out empty texts, and of captions equal in text and source all but the best scored."""
    found: dict[tuple[str, str], Caption] = {}
    for caption in captions:
        key = caption.text, caption.source
        before = found.get(key)
        if caption.text and (before is None or (before.score or 0) < (caption.score or 0)):
            found[key] = caption
    return tuple(found.values())


def _captions(value: Any, name: str) -> tuple[Caption, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return distinct([Caption(value.strip())])
    if isinstance(value, list | tuple):
        return distinct([caption for one in value for caption in _captions(one, name)])
    if not isinstance(value, Mapping):
        raise DataError(f"{name} has {value!r} instead of a caption: write texts.")
    texts = [c for key in TEXT_KEYS if key in value for c in _captions(value[key], name)]
    scores = next((value[key] for key in SCORE_KEYS if value.get(key) not in (None, "")), None)
    if scores is not None:
        scores = list(scores) if isinstance(scores, list | tuple) else [scores]
        if len(scores) != len(texts):
            raise DataError(
                f"{name} has {len(texts)} captions and {len(scores)} scores: write one score per caption."
            )
        texts = [Caption(c.text, _number(s, name), c.source) for c, s in zip(texts, scores, strict=True)]
    source = value.get("source")
    if isinstance(source, str) and source:
        texts = [Caption(c.text, c.score, c.source or source) for c in texts]
    return distinct(texts)


def _number(score: Any, name: str) -> float | None:
    try:
        return None if score is None else float(score)
    except (TypeError, ValueError):
        raise DataError(f"{name} has the score {score!r}: a score is a number.") from None
