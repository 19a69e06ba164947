"""Consistency of a clip: whether its frames show the same, by the cosine of their features.

    1/(T - 1) sum_{t=1}^{T-1} (max(0, <f_0, f_t>) + max(0, <f_{t-1}, f_t>)) / 2

Source: VBench (Huang et al. 2024, arXiv:2311.17982), subject and background consistency. VBench's features
are DINO's for the subject and those of CLIP ViT-B/32 for the background; any network's will do here, and
figures of different networks do not compare.
Shapes: T frames, F features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError


def consistency(features: Tensor) -> float:
    """Return how much a clip's frames agree with its first frame and with their neighbours, in [0, 1].

    features: T F, of any length. 1: all point the same way. The first frame itself is not counted.
    Raises SettingsError for fewer than two frames, NumericsError for NaN or infinity.
    """
    if len(features) < 2:
        raise SettingsError(f"Consistency compares frames: a clip needs two of them, not {len(features)}.")
    if not features.isfinite().all():
        raise NumericsError("The feature network gave NaN or infinity for a frame: check its weights.")
    unit = F.normalize(features.double(), dim=1)
    with_first = unit[1:] @ unit[0]  # T - 1
    with_previous = (unit[1:] * unit[:-1]).sum(1)
    return float((with_first.clamp(min=0) + with_previous.clamp(min=0)).mean() / 2)
