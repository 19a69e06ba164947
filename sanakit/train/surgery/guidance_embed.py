"""Make a one-step student of a flow model: the same weights, and an embedding of the guidance scale.

The embedding's last layer is zero, so that the student begins as its teacher; its first is not, or it would
never learn: with two layers of zeros only the last bias has a gradient, and all scales draw the same image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sanakit.errors import SettingsError
from sanakit.models.layers import Linear
from sanakit.models.sana import Sana, SanaConfig

STD = 0.02  # of the embedding's first layer, as the published code draws it


def with_guidance(teacher: Sana, seed: int = 0) -> Sana:
    """Return a copy of a teacher that takes the guidance scale, and draws as the teacher at every scale.

    Raises SettingsError for a model that takes it already, and for one that takes times 1000 t or has no norm
    of queries and keys: their derivatives in time are too rough to be distilled (`dense_time.py`).
    """
    check_teacher(teacher.config)
    student = Sana(replace(teacher.config, guidance_embed=True))
    first, _, last = student.cfg_embedder.mlp
    assert isinstance(first, Linear)
    assert isinstance(last, Linear)
    own = {f"cfg_embedder.{name}" for name in student.cfg_embedder.state_dict()}
    student.load_state_dict(teacher.state_dict() | {n: student.state_dict()[n] for n in own})
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(first.weight.shape, generator=generator, dtype=torch.float32)
    with torch.no_grad():
        first.weight.copy_(STD * drawn)
        for silent in (first.bias, last.weight, last.bias):
            nn.init.zeros_(silent)
    return student.to(next(teacher.parameters()).device)


def check_teacher(config: SanaConfig, name: str = "The model") -> None:
    """Raise SettingsError for a model that cannot be distilled as it is. name: of the model, as told."""
    if config.guidance_embed:
        raise SettingsError(f"{name} is a Sprint model itself: distil the model that it was made from.")
    if config.time_scale != 1 or not config.qk_norm:
        lacks = "takes times 1000 t" if config.time_scale != 1 else "does not norm its queries and keys"
        raise SettingsError(
            f"{name} {lacks}, so that its derivative in time is too rough to be distilled: make a teacher "
            "of it first (sana train sprint-teacher)."
        )
