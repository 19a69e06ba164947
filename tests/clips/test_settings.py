"""Settings come back as they were, and a foreign comment is not taken for settings."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sanakit.clips.settings import settings_from, settings_text
from sanakit.errors import SettingsError

RATE = Fraction(24000, 1001)


def test_settings_and_rate_come_back_from_ascii() -> None:
    settings = {"prompt": "eine Katze — ☃ \ud800 \0 'x'\n", "seed": 2**60, "guidance": 0.1, "empty": ""}
    text = settings_text(settings, RATE)
    assert text.isascii()
    assert text.isprintable()
    assert settings_from(text) == (settings, RATE)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, True, float("nan"), float("inf")])
def test_values_that_a_text_cannot_hold_are_named(value) -> None:
    with pytest.raises(SettingsError, match="The settings steps cannot be stored"):
        settings_text({"seed": 1, "steps": value}, RATE)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a holiday", "[1]", "3", '{"a": 1}', '{"sanakit": {}}', '{"sanakit": {}, "rate": "0"}'),
        *('{"sanakit": 3, "rate": "16"}', '{"sanakit": {"a": [1]}, "rate": "16"}'),
        *('{"sanakit": {"a": NaN}, "rate": "16"}', "[" * 100_000),
    ],
)
def test_a_foreign_comment_holds_no_settings(text: str) -> None:
    assert settings_from(text) == ({}, None)
