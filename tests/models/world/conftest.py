"""What the tests of world models share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers takes softmax attention's inputs in bfloat16 whatever the model is in; here it does not."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
