"""Noise to draw from, of seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sanakit.models.contracts import LatentShape


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return the first noise of each seed, (len(seeds), *shape). shape: C h w."""
    return torch.stack([LatentShape.image(*shape).noise(seed)[0] for seed in seeds])
