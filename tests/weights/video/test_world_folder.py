"""A world model as a folder: `World` opens it with all that it says of itself."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sanakit.errors import OutputError, SettingsError, SizeError
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.sana_wm import SanaWM
from sanakit.weights import load_text_encoder, load_transformer
from sanakit.weights.video.settings import ChunkSettings, load_world_settings
from sanakit.weights.video.world_folder import save_world
from tests.pipelines.conftest import SANA, save
from tests.pipelines.video.tiny import AUTOENCODER
from tests.pipelines.world.tiny import STREAMING, TRANSFORMER

DEFAULTS = {"steps": 5, "guidance": 1.5, "width": 64, "height": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of images, for its text encoder."""
    return save(tmp_path_factory.mktemp("tiny") / "model", SANA)


@pytest.mark.parametrize(("solver", "config"), [("euler", TRANSFORMER), ("dpm", STREAMING)])
def test_what_is_saved_is_what_is_opened(solver: str, config, folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformer = SanaWM(replace(config, plucker_channels=24))
    encoder = load_text_encoder(folder, dtype="float32")
    parts = {"transformer": transformer, "autoencoder": WanVAE(AUTOENCODER), "text_encoder": encoder}
    chunks = ChunkSettings(length=2, times=None, shift=None) if config.causal else None
    told = {"rate": Fraction(25, 2), "chunks": chunks, "name": "small", "licence": "MIT"}
    shown = {"frames": 9, "flow_shift": 5.0, "defaults": {**DEFAULTS, "solver": solver}}
    place = save_world(tmp_path / "model", **parts, **shown, **told)
    settings = load_world_settings(place)
    assert (settings.frames, settings.rate, settings.negative_prompt) == (9, Fraction(25, 2), "")
    if chunks is not None:
        assert (settings.chunks.length, settings.chunks.times) == (2, None)
    shared = settings.shared
    assert (shared.steps, shared.guidance, shared.width, shared.height) == (5, 1.5, 64, 32)
    assert (shared.solver, shared.flow_shift, shared.name) == (solver, 5.0, "small")
    found = load_transformer(place, kind="world", dtype="float32")
    assert found.config == transformer.config
    for (name, one), other in zip(transformer.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    with pytest.raises(SizeError):
        save_world(tmp_path / "other", **parts, **{**shown, "frames": 8}, **told)
    with pytest.raises(SettingsError, match="flow_shift"):
        save_world(tmp_path / "other", **parts, **{**shown, "flow_shift": 0.0}, **told)
    other = None if chunks is not None else ChunkSettings(length=2, times=None, shift=None)
    with pytest.raises(SettingsError, match="chunks"):
        save_world(tmp_path / "other", **parts, **shown, **{**told, "chunks": other})
    assert not (tmp_path / "other").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(OutputError, match="not a model folder"):
        save_world(tmp_path / "used", **parts, **shown, **told)
