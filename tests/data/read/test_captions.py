"""The caption sampler draws what its formula says, whatever the numbers."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from sanakit.data.read.captions import Caption, caption_chances, draw_caption
from sanakit.errors import DataError, SettingsError

CAPTIONS = [Caption("a", 30.0), Caption("b", 31.0), Caption("c", 29.0), Caption("d", 20.0)]


def drawn(captions: list[Caption], count: int, **settings: float) -> Counter[str]:
    numbers = random.Random(0)
    return Counter(draw_caption(captions, numbers.random(), **settings).text for _ in range(count))


def test_draws_follow_the_softmax_of_the_scores() -> None:
    weights = {"a": math.exp(30 / 1.5), "b": math.exp(31 / 1.5), "c": math.exp(29 / 1.5)}
    count = 20_000
    found = drawn(CAPTIONS, count, temperature=1.5, threshold=25.0)
    assert found.keys() == weights.keys()  # "d" is below the threshold
    expected = {text: count * weight / sum(weights.values()) for text, weight in weights.items()}
    chi_square = sum((found[text] - mean) ** 2 / mean for text, mean in expected.items())
    assert chi_square < 13.8  # the 99.9 % quantile of 2 degrees of freedom


def test_a_wrong_temperature_would_be_noticed_by_that_test() -> None:
    count = 20_000
    found = drawn(CAPTIONS, count, temperature=1.7, threshold=25.0)
    weights = {caption.text: math.exp((caption.score or 0) / 1.5) for caption in CAPTIONS[:3]}
    expected = {text: count * weight / sum(weights.values()) for text, weight in weights.items()}
    assert sum((found[text] - mean) ** 2 / mean for text, mean in expected.items()) > 13.8


def test_captions_without_scores_are_equally_likely() -> None:
    assert caption_chances([Caption("a"), Caption("b"), Caption("c")]) == [1 / 3] * 3


def test_an_unscored_caption_is_not_drawn_beside_scored_ones() -> None:
    assert caption_chances([Caption("a"), Caption("b", 26.0)]) == [0.0, 1.0]


def test_where_none_reaches_the_threshold_the_best_one_is_drawn() -> None:
    chances = caption_chances([Caption("a", 10.0), Caption("b", 12.0), Caption("c", 11.0)], temperature=100.0)
    assert chances == [0.0, 1.0, 0.0]


def test_the_threshold_itself_is_reached() -> None:
    assert caption_chances([Caption("a", 25.0), Caption("b", 24.999)], threshold=25.0) == [1.0, 0.0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 0.1, 1e3, 1e300, math.inf])
@pytest.mark.parametrize("scores", [(0.0, 100.0), (-1e300, 1e300), (25.0, 25.0), (1e-300, 0.0)])
def test_extreme_numbers_give_chances_that_add_up_to_one(
    temperature: float, scores: tuple[float, ...]
) -> None:
    captions = [Caption(str(score), score) for score in scores]
    chances = caption_chances(captions, temperature=temperature, threshold=-math.inf)
    assert sum(chances) == pytest.approx(1.0)
    assert all(0 <= chance <= 1 for chance in chances)
    assert chances[scores.index(max(scores))] >= 0.5


def test_an_infinite_temperature_is_uniform_above_the_threshold() -> None:
    assert caption_chances(CAPTIONS, temperature=math.inf) == [1 / 3, 1 / 3, 1 / 3, 0.0]


def test_the_same_number_draws_the_same_caption_and_the_largest_one_draws_the_last() -> None:
    almost_one = math.nextafter(1.0, 0.0)
    tenths = [Caption(str(index)) for index in range(10)]  # ten times 0.1 adds up to less than 1
    assert draw_caption(tenths, almost_one).text == "9"
    assert draw_caption(tenths, 0.0).text == "0"
    assert draw_caption(CAPTIONS, almost_one, temperature=1.0).text == "c"  # never one without a chance


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    with pytest.raises(DataError, match=r"'a red apple' has the score .*finite"):
        Caption("a red apple", score)


@pytest.mark.parametrize(
    ("captions", "u", "settings", "words"),
    [
        ([], 0.5, {}, "no caption"),
        (CAPTIONS, 1.0, {}, "less than 1"),
        (CAPTIONS, math.nan, {}, "u is nan"),
        (CAPTIONS, 0.5, {"temperature": 0.0}, "greater than 0"),
        (CAPTIONS, 0.5, {"temperature": math.nan}, "greater than 0"),
        (CAPTIONS, 0.5, {"threshold": math.nan}, "threshold"),
    ],
)
def test_settings_out_of_range_are_sentences(
    captions: list[Caption], u: float, settings: dict[str, float], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        draw_caption(captions, u, **settings)
