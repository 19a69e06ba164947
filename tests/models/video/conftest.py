"""What the tests of video autoencoders share."""

from __future__ import annotations

import pytest
from torch import nn


@pytest.fixture
def doubled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers doubles the sides in float32; here values of float64 are left as they are."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

    monkeypatch.setattr(WanUpsample, "forward", lambda self, x: nn.Upsample.forward(self, x))
