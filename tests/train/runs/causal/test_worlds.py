"""Which worlds can teach, and which weights can become a student that streams."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.models.world.config import Variant
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.world_velocity import WorldMixing, given_of
from sanakit.train.runs.causal.taught import CausalAim
from sanakit.train.runs.causal.worlds import TaughtWorld, open_taught_world, streaming_transformer
from sanakit.weights import load_transformer
from sanakit.weights.video.settings import WORLD_CHUNKS
from tests.pipelines.world.tiny import DEFAULTS, TRANSFORMER, save_world
from tests.train.distill.test_dmd import normal
from tests.train.objectives.test_world_velocity import CONFIG as SMALL
from tests.train.objectives.test_world_velocity import LATENTS, PIXELS, SIDE, STRIDE, cameras, speaking

CONFIG = replace(TRANSFORMER, plucker_channels=24, depth=2, softmax_every=2)
STREAMING = replace(CONFIG, variant="streaming")
AIM = CausalAim(chunks=WORLD_CHUNKS, mixing=WorldMixing(), shift=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of whole clips with Wan's autoencoder."""
    return save_world(tmp_path_factory.mktemp("world") / "whole", CONFIG, None, DEFAULTS | {"width": 64})


def as_variant(whole: Path, folder: Path, variant: Variant, times: tuple[float, ...] | None = None) -> Path:
    """Write the same weights as those of another variant. times: of few steps, which streaming ones take."""
    shutil.copytree(whole, folder)
    sizes = json.loads((folder / "transformer" / "config.json").read_text())
    sizes["sanakit"] = {"variant": variant}
    (folder / "transformer" / "config.json").write_text(json.dumps(sizes))
    if times is not None:
        ours = json.loads((folder / "sanakit.json").read_text())
        ours["defaults"]["chunks"] = {"length": 2, "times": times}
        (folder / "sanakit.json").write_text(json.dumps(ours))
    return folder


def test_weights_become_streaming_ones_with_the_same_numbers(whole: Path, tmp_path: Path) -> None:
    chunked = as_variant(whole, tmp_path / "chunked", "chunk_causal")
    before = load_transformer(chunked, kind="world", dtype="float32")
    assert before.config == replace(CONFIG, variant="chunk_causal")
    for place, first in ((whole, True), (chunked, True), (chunked, False)):
        student = streaming_transformer(place, like=CONFIG, first=first)
        assert student.config == STREAMING
        assert {block.attn.config.variant for block in student.blocks} == {"streaming"}
        numbers = before.state_dict()
        assert all(torch.equal(one, numbers[name]) for name, one in student.state_dict().items())
    with pytest.raises(SettingsError, match="has not learned chunks"):
        streaming_transformer(whole, like=CONFIG, first=False)
    with pytest.raises(SettingsError, match="other sizes than its teacher"):
        streaming_transformer(chunked, like=replace(CONFIG, taps=3), first=False)


def test_a_distilled_world_is_not_made_one_of_many_steps_and_does_not_teach(
    whole: Path, tmp_path: Path
) -> None:
    distilled = as_variant(whole, tmp_path / "distilled", "streaming", (1.0, 0.5))
    with pytest.raises(SettingsError, match="this training would undo"):
        streaming_transformer(distilled, like=CONFIG, first=True)
    assert streaming_transformer(distilled, like=CONFIG, first=False).config == STREAMING
    config = TrainConfig(steps=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(SettingsError, match="it cannot teach"):
        open_taught_world(tmp_path, tmp_path / "cache", distilled, config, AIM)
    ahead = save_world(tmp_path / "ahead", replace(TRANSFORMER, depth=2))
    with pytest.raises(SettingsError, match="latents ahead, so its student could not stream"):
        open_taught_world(tmp_path, tmp_path / "cache", ahead, config, AIM)


@pytest.mark.parametrize(
    ("variant", "chunks"),
    [("bidirectional", None), ("streaming", [1, 1, 1, 1, 1]), ("chunk_causal", [2, 1, 1, 1])],
)
def test_a_teacher_draws_trajectories_in_the_chunks_that_it_was_trained_in(
    variant: Variant, chunks: list[int] | None
) -> None:
    """1e-6: the first frame is held, the cameras are the clip's."""
    teacher = speaking(replace(SMALL, variant=variant)).double()
    known = given_of(normal(1, 4, LATENTS, SIDE, SIDE, seed=5), cameras(1), (STRIDE, PIXELS))
    aim = replace(AIM, chunks=replace(WORLD_CHUNKS, length=1))
    others: dict[str, Any] = dict.fromkeys(("source", "settings", "codec", "encoder", "clips", "paths"))
    bound = TaughtWorld(**others, aim=aim, config=teacher.config).bound(teacher, known)
    noisy, text = normal(1, 4, LATENTS, SIDE, SIDE), normal(1, 5, 32, seed=9)
    with torch.no_grad():
        found = bound.velocity(noisy[:, :, 1:], 0.7, bound.prepare([text[0]]))
        t, mask = torch.tensor([0.7], dtype=torch.float64), torch.ones(1, 5, dtype=torch.bool)
        wanted = known.velocity(teacher, noisy, t, text, mask, chunks)
    torch.testing.assert_close(found, wanted[:, :, 1:], rtol=1e-6, atol=1e-6)
