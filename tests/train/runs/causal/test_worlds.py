"""Which worlds can teach, and which weights can become a student that streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.models.world.config import SanaWMConfig
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.world_velocity import WorldMixing
from sanakit.train.runs.causal.taught import CausalAim
from sanakit.train.runs.causal.worlds import open_taught_world, streaming_transformer
from sanakit.weights import load_transformer
from sanakit.weights.video.settings import WORLD_CHUNKS
from tests.pipelines.world.tiny import DEFAULTS, TRANSFORMER, save_world

CONFIG = replace(TRANSFORMER, plucker_channels=24)
STREAMING, CHUNKED = replace(CONFIG, variant="streaming"), replace(CONFIG, variant="chunk_causal")
AIM = CausalAim(chunks=WORLD_CHUNKS, mixing=WorldMixing(), shift=None)


def world(folder: Path, config: SanaWMConfig, times: tuple[float, ...] | None = None) -> Path:
    """Write a model with Wan's autoencoder. times: of streaming weights."""
    chunks: dict[str, Any] = {"chunks": {"length": 2, "times": times}} if config.causal else {}
    return save_world(folder, config, None, DEFAULTS | {"width": 64} | chunks)


def test_weights_become_streaming_ones_with_the_same_numbers(tmp_path: Path) -> None:
    whole, chunked = world(tmp_path / "whole", CONFIG), world(tmp_path / "chunked", CHUNKED)
    for place, first in ((whole, True), (chunked, True), (chunked, False)):
        student = streaming_transformer(place, like=CONFIG, first=first)
        assert student.config == STREAMING
        assert {block.attn.config.variant for block in student.blocks} == {"streaming"}
        before = load_transformer(place, kind="world", dtype="float32").state_dict()
        assert all(torch.equal(one, before[name]) for name, one in student.state_dict().items())
    with pytest.raises(SettingsError, match="has not learned chunks"):
        streaming_transformer(whole, like=CONFIG, first=False)
    with pytest.raises(SettingsError, match="other sizes than its teacher"):
        streaming_transformer(chunked, like=replace(CONFIG, taps=3), first=False)


def test_a_distilled_world_is_not_made_one_of_many_steps_and_does_not_teach(tmp_path: Path) -> None:
    distilled = world(tmp_path / "distilled", STREAMING, (1.0, 0.5))
    with pytest.raises(SettingsError, match="this training would undo"):
        streaming_transformer(distilled, like=CONFIG, first=True)
    assert streaming_transformer(distilled, like=CONFIG, first=False).config == STREAMING
    config = TrainConfig(steps=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(SettingsError, match="it cannot teach"):
        open_taught_world(tmp_path, tmp_path / "cache", distilled, config, AIM)
    ahead = save_world(tmp_path / "ahead", TRANSFORMER)
    with pytest.raises(SettingsError, match="latents ahead, so its student could not stream"):
        open_taught_world(tmp_path, tmp_path / "cache", ahead, config, AIM)
