"""pocket-world's autoencoder: it goes on from pocket-video's, on renderings, and is normalised by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data.worlds.dataset import open_worlds
from sanakit.pocket.recipes import RECIPES, world
from sanakit.pocket.train.worlds.autoencoder import held_out_windows, measured_windows
from sanakit.train.run import run_recipe
from sanakit.weights import load_autoencoder, save_autoencoder
from tests.pipelines.video.tiny import AUTOENCODER
from tests.pocket.data.worlds.toy import build_toy_worlds


@pytest.mark.thorough
def test_it_goes_on_from_the_given_one_and_is_normalised_by_renderings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "FURTHER", replace(world.FURTHER, bf16=False, learning_rate=1e-9))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    data = build_toy_worlds(tmp_path / "worlds")
    torch.manual_seed(0)
    begun = WanVAE(AUTOENCODER)
    save_autoencoder(tmp_path / "vae", begun)
    output, more = tmp_path / "run", {"autoencoder": str(tmp_path / "vae")}
    name = "pocket-world-autoencoder"
    list(run_recipe(name, RECIPES, data=data, output=output, smoke=True, more=more))
    made = load_autoencoder(output / "model" / "vae")
    assert isinstance(made, WanVAE)
    for (key, weight), other in zip(begun.state_dict().items(), made.state_dict().values(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-6, rtol=0, msg=key)
    worlds = open_worlds(data)
    windows = measured_windows(worlds)
    latents = torch.cat([made.encode(clip) for clip in windows.split(4)])
    spread = made.normalise(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(spread.mean(1), torch.zeros(len(spread)), atol=1e-2, rtol=0)
    torch.testing.assert_close(spread.std(1), torch.ones(len(spread)), atol=1e-2, rtol=0)
    assert made.config.latents_mean != AUTOENCODER.latents_mean
    assert held_out_windows(worlds).shape[2:] == (9, 16, 16)
    assert len(held_out_windows(worlds)) == sum(row.split == "thing" for row in worlds.rows)
