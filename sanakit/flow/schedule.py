"""Random times for training.

Source: SANA (arXiv:2410.10629); Esser et al. 2024 (arXiv:2403.03206).
Shapes: n samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import shift_times


def sample_training_times(
    n: int, shift: float, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """Draw the times at which a batch is noised for training: logit-normal, then shifted.

    t = shift(sigmoid(mean + std z)), z standard normal, continuous. The published training draws the same
    law in steps: i = floor(1000 sigmoid(z)), t = shift(i / 1000), and the model gets floor(1000 t).
    Continuous times are less than 3/1000 away (at shift 3) and cover what solvers ask for in between.

    n: >= 1.   shift: > 0.   generator: draws on its own device.
    mean, std: of the logit before the shift, std > 0.
    Returns float32 (n,) in [0, 1], on the generator's device. Raises SettingsError for settings out of range.
    Source: Esser et al. 2024 (arXiv:2403.03206) section 3.1; SANA uses mean 0, std 1, shift 3.
    """
    if n < 1:
        raise SettingsError(f"{n} training times were requested: request at least 1.")
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise SettingsError(
            f"Training times with mean {mean} and std {std} cannot be drawn: "
            "use a finite mean and a std above 0."
        )
    logits = mean + std * torch.randn(n, generator=generator, dtype=torch.float32, device=generator.device)
    return shift_times(torch.sigmoid(logits), shift)
