"""What all algorithms share: a distance, and settings that are numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.train.reinforce.algorithm import away_from, check_above_zero, check_weight


def test_the_distance_is_the_mean_square_of_each_sample() -> None:
    one, other = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    wanted = [((a - b) ** 2).mean().item() for a, b in zip(one, other, strict=True)]
    assert away_from(one, other).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1", None])
def test_numbers_above_zero(value) -> None:
    with pytest.raises(SettingsError, match=r"reach = .*above 0"):
        check_above_zero(clip=1.0, reach=value)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, False, "1"])
def test_weights_may_be_zero(value) -> None:
    check_weight("kl", 0)
    with pytest.raises(SettingsError, match="at least 0"):
        check_weight("kl", value)
