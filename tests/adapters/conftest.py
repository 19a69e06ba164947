"""A whole tiny model in a folder, and adapters for it in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.adapters.save import save_adapter
from tests.adapters.loras import SANA, lora
from tests.pipelines.conftest import save


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the transformer of `loras.SANA`."""
    return save(tmp_path_factory.mktemp("adapted") / "model", SANA)


@pytest.fixture(scope="session")
def styles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of it."""
    made = tmp_path_factory.mktemp("styles")
    return [
        save_adapter(made / f"style{seed}.safetensors", lora(seed=seed), SANA, dtype=torch.float32)
        for seed in (1, 2)
    ]
