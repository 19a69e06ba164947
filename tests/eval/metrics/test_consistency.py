"""Consistency against its equation in float64, and on frames of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.errors import NumericsError, SettingsError
from sanakit.eval.metrics.consistency import consistency


def equation(features: np.ndarray) -> float:
    """VBench's loop, in float64."""

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return max(0.0, float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))

    pairs = [(cosine(features[0], now) + cosine(features[t], now)) / 2 for t, now in enumerate(features[1:])]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("frames", [2, 3, 17])
def test_it_equals_the_equation(frames: int) -> None:
    features = torch.randn(frames, 9, generator=torch.Generator().manual_seed(frames)) + 0.3
    assert consistency(features) == pytest.approx(equation(features.double().numpy()), abs=1e-6)


def test_equal_frames_are_consistent_whatever_the_length_of_their_features() -> None:
    one = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert consistency(torch.stack([one, 3 * one, 0.01 * one])) == pytest.approx(1, abs=1e-6)


def test_a_turn_by_a_known_angle_a_frame() -> None:
    angles = 0.2 * torch.arange(6)
    features = torch.stack([angles.cos(), angles.sin()], 1)
    expected = (np.cos(0.2) + np.mean(np.cos(0.2 * np.arange(1, 6)))) / 2
    assert consistency(features) == pytest.approx(expected, abs=1e-6)


def test_a_first_frame_that_differs_costs_more_than_a_last_one() -> None:
    same, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert consistency(torch.stack([other, same, same, same, same])) == pytest.approx((0 + 3 / 2) / 4)
    assert consistency(torch.stack([same, same, same, same, other])) == pytest.approx(3 / 4)


def test_opposite_features_count_as_zero_not_less() -> None:
    assert consistency(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(0.25)


def test_one_frame_and_broken_features_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs two of them, not 1"):
        consistency(torch.ones(1, 4))
    with pytest.raises(NumericsError, match="NaN"):
        consistency(torch.tensor([[1.0], [torch.nan]]))
