"""The settings of an adapter's training: numbers out of range and empty texts are told."""

from __future__ import annotations

import pytest

from sanakit.errors import SettingsError
from sanakit.train.runs.adapter import AdapterAim


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prior_weight": -1.0}, "prior_weight = -1.0"),
        ({"prior_weight": float("nan")}, "prior_weight = nan"),
        ({"class_images": 0}, "class_images = 0"),
        ({"repeats": {"a": 0}}, "'a' is repeated 0 times"),
        ({"caption": ""}, "is empty"),
        ({"class_prompts": ("a fox", " ")}, "is empty"),
        ({"judge": "pocket-clip"}, "give a class prompt"),
    ],
)
def test_what_is_out_of_range_is_told(settings, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        AdapterAim(**settings)
