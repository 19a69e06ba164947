"""What all algorithms share: a distance."""

from __future__ import annotations

import pytest
import torch

from sanakit.train.reinforce.algorithm import away_from


def test_the_distance_is_the_mean_square_of_each_sample() -> None:
    one, other = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    wanted = [((a - b) ** 2).mean().item() for a, b in zip(one, other, strict=True)]
    assert away_from(one, other).tolist() == pytest.approx(wanted, rel=1e-12)
