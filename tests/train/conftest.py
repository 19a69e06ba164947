"""Training in a second: without TensorBoard, and whatever the processor computes in."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_tensorboard(monkeypatch):
    """Importing it takes longer than all of these tests."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.fixture
def bfloat16(monkeypatch):
    """As if every processor had it: what is asked for is what is tested."""
    monkeypatch.setattr("sanakit.train.loop.computes", lambda device, dtype: True)
