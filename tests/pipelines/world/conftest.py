"""The tiny world models, one folder of each per test session, and the pipelines that draw with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.pipelines.world.world import World
from tests.pipelines.world.tiny import AUTOENCODER, STREAMING, save_world


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_world(tmp_path_factory.mktemp("tiny-world") / "model")


@pytest.fixture(scope="session")
def whole(world_folder: Path) -> World:
    """Bidirectional weights, and the autoencoder that looks ahead."""
    return World.from_pretrained(world_folder, device="cpu")


@pytest.fixture(scope="session")
def streaming_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    causal = replace(AUTOENCODER, decoder_causal=True)
    return save_world(tmp_path_factory.mktemp("tiny-streaming") / "model", STREAMING, causal)


@pytest.fixture(scope="session")
def streaming(streaming_folder: Path) -> World:
    return World.from_pretrained(streaming_folder, device="cpu")
