"""A flow whose every quantity is known in closed form: Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor


class GaussianFlow:
    """Data x0 ~ N(mean, std^2): x_t is Gaussian at every t; the flow ODE moves it along mean_t + std_t z."""

    mean, std = 0.7, 0.5

    def marginal_std(self, t: float) -> float:
        return math.sqrt(((1 - t) * self.std) ** 2 + t**2)

    def solution(self, z: Tensor, t: float) -> Tensor:
        return (1 - t) * self.mean + self.marginal_std(t) * z

    def clean(self, sample: Tensor, t: float) -> Tensor:
        """The expected x0 given x_t."""
        gain = (1 - t) * self.std**2 / self.marginal_std(t) ** 2
        return self.mean + gain * (sample - (1 - t) * self.mean)

    def velocity(self, sample: Tensor, t: float) -> Tensor:
        return (sample - self.clean(sample, t)) / t


@pytest.fixture
def gaussian() -> GaussianFlow:
    return GaussianFlow()


@pytest.fixture
def z() -> Tensor:
    return torch.tensor([1.3, -0.4], dtype=torch.float64)
