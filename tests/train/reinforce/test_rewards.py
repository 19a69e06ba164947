"""Rewards by name and weight, their sum, and scores that are refused."""

from __future__ import annotations

import math

import pytest
import torch

from sanakit.errors import NumericsError, SettingsError
from sanakit.train.reinforce.reward_calls import EndpointReward, FunctionReward
from sanakit.train.reinforce.rewards import WeightedRewards, open_reward, open_rewards, scored, weight_of
from tests.train.reinforce.small import Redness

IMAGES = torch.linspace(-1, 1, 3 * 3 * 4).reshape(3, 3, 2, 2)
ASKED = ["a fox"] * 3


def test_several_are_summed_by_their_weights() -> None:
    both = WeightedRewards((Redness(), Redness("green", sign=2.0)), (0.5, -3.0))
    torch.testing.assert_close(both(IMAGES, ASKED), (0.5 - 6.0) * Redness()(IMAGES, ASKED))
    assert both.name == "red+green"


@pytest.mark.parametrize(
    ("text", "weight", "name"),
    [
        ("pocket-clip", 1.0, "pocket-clip"),
        ("0.3*clip:openai/clip", 0.3, "clip:openai/clip"),
        (" -2e-1 * http://localhost:1/a*b ", -0.2, "http://localhost:1/a*b"),
        ("rewards:by_3*4", 1.0, "rewards:by_3*4"),
    ],
)
def test_a_weight_stands_before_a_star(text: str, weight: float, name: str) -> None:
    assert weight_of(text) == (weight, name)


@pytest.mark.parametrize("text", ["0*pocket-clip", "1.2.3*pocket-clip", "1e999*pocket-clip"])
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="weight"):
        weight_of(text)


def test_names_lead_to_their_kinds() -> None:
    assert isinstance(open_reward("https://example.org/score"), EndpointReward)
    assert isinstance(open_reward("math:hypot"), FunctionReward)
    assert isinstance(open_rewards(["math:hypot"]), FunctionReward)
    mixed = open_rewards(["0.5*math:hypot", "math:cos"])
    assert isinstance(mixed, WeightedRewards)
    assert mixed.weights == (0.5, 1.0)


@pytest.mark.parametrize("texts", [[], ["beauty"], [""], ["clip:"]])
def test_a_name_of_nothing_is_refused_with_those_that_there_are(texts: list[str]) -> None:
    with pytest.raises(SettingsError, match="pocket-clip, clip:PLACE"):
        open_rewards(texts)


def test_weights_must_say_something() -> None:
    with pytest.raises(SettingsError, match="give each one"):
        WeightedRewards((Redness(),), (0.0,))
    with pytest.raises(SettingsError, match="give each one"):
        WeightedRewards((Redness(),), (1.0, 2.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_name_the_prompt(bad: float) -> None:
    with pytest.raises(NumericsError, match=r"reward red scored an image of 'a fox'"):
        scored(Redness(sign=bad), IMAGES, ASKED)


def test_another_number_of_scores_than_images_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"\(2,\) scores for 3 images"):
        scored(FunctionReward("short", lambda images, prompts: [1, 2]), IMAGES, ASKED)
