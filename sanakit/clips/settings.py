"""The settings of a clip as one text, which every container has a place for: a comment.

    {"sanakit": {"prompt": "a cat waves", "seed": 0}, "rate": "16"}

It is ASCII, so that no container changes it. The rate is the exact one; containers round the times of frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction

from sanakit.clips.counts import as_rate
from sanakit.errors import SettingsError

ClipSettings = dict[str, str | int | float]  # as those of images: prompt, seed, steps, guidance, model, ...
_OURS = "sanakit"


def settings_text(settings: Mapping[str, object], rate: Fraction) -> str:
    """Return the text for a clip's settings and rate. Raises SettingsError for values that it cannot hold."""
    wrong = [name for name, value in settings.items() if not _plain(name, value)]
    if wrong:
        raise SettingsError(
            f"The settings {', '.join(map(str, wrong))} cannot be stored: use texts and finite numbers."
        )
    return json.dumps({_OURS: dict(settings), "rate": str(rate)})


def settings_from(text: str) -> tuple[ClipSettings, Fraction | None]:
    """Return the settings and the rate in a text of `settings_text`; nothing of any other text."""
    try:
        found = json.loads(text)
        settings, rate = found[_OURS], as_rate(found["rate"])
    except (ValueError, KeyError, TypeError, RecursionError):  # SettingsError is a ValueError
        return {}, None
    if not isinstance(settings, dict) or not all(_plain(name, value) for name, value in settings.items()):
        return {}, None
    return settings, rate


def _plain(name: object, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(name, str):
        return False
    return isinstance(value, str | int) or (isinstance(value, float) and abs(value) < float("inf"))
