"""`sana train pocket-world` on a few renderings: it trains, resumes exactly, and its result walks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sanakit.images.image
from sanakit import World
from sanakit.errors import DataError
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.camera import relative_poses
from sanakit.pocket.data.worlds.dataset import open_worlds
from sanakit.pocket.recipes import RECIPES, world
from sanakit.pocket.train.worlds import transformer as module
from sanakit.pocket.train.worlds.transformer import cameras_of
from sanakit.train.feeds.latents import PathFeed
from sanakit.train.loop import train
from sanakit.train.objectives.world_velocity import WorldObjective
from sanakit.train.run import averaged_weights, run_recipe
from sanakit.weights import save_autoencoder
from tests.pipelines.video.tiny import AUTOENCODER
from tests.pocket.data.worlds.toy import SIDE, build_toy_worlds

NAME = "pocket-world"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data set and an autoencoder."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    save_autoencoder(folder / "vae", WanVAE(AUTOENCODER))
    return build_toy_worlds(folder / "worlds"), folder / "vae"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny transformer, few samples, and no TensorBoard, whose import takes longer than the tests."""
    sizes = {"depth": 2, "width": 32, "cross_heads": 2, "head_dim": 16, "softmax_every": 2}
    monkeypatch.setattr(world, "TRANSFORMER", replace(world.TRANSFORMER, **sizes))
    training = {"bf16": False, "log_every": 1, "checkpoint_every": 1, "batch_size": 2}
    monkeypatch.setattr(world, "WORLD", replace(world.WORLD, **training))
    monkeypatch.setattr(world, "DEFAULTS", {**world.DEFAULTS, "steps": 1})
    monkeypatch.setattr(module, "WATCHED", 2)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.mark.thorough
def test_the_recipe_trains_resumes_exactly_and_its_result_is_walked_through(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanakit.images.image, "MIN_SIDE", SIDE)  # of what is drawn: 64 px would take longer
    data, vae = places
    more = {"autoencoder": str(vae)}

    def lines(folder: str, steps: int, resume: bool = False) -> list[float]:
        output = tmp_path / folder
        made = run_recipe(NAME, RECIPES, data=data, output=output, steps=steps, resume=resume, more=more)
        return [progress.loss for progress in made]

    whole = lines("whole", 3)
    run = world.world(data, tmp_path / "half", 3, autoencoder=str(vae))
    for progress in train(run.objective, run.config, tmp_path / "half"):
        assert progress.loss == whole[progress.step - 1]
        if progress.step == 2:
            break
    assert lines("half", 3, resume=True) == whole[2:]
    one, other = (averaged_weights(tmp_path / folder) for folder in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"thing_gap_0.85", "path_right_0.85", "thing_none_0.5"} <= log[-1].keys()

    made = World.from_pretrained(tmp_path / "whole" / "model", device="cpu")
    assert made.transformer.config.variant == "streaming"
    assert (made.settings.chunks.length, made.settings.chunks.times) == (3, None)
    image = Image.fromarray(np.array(open_worlds(data).frames[0, 0]))
    clip = made(image, "a chair", path="w-8", fov=60, seed=0, steps=1)
    assert clip.frames.shape == (9, 16, 16, 3)
    live = made.enter(image, "a chair", seed=0, fov=60, steps=1)
    assert len(live.move("w-12")) == 12


def test_what_is_shown_are_the_clips_that_are_not_held_out_with_their_cameras(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    data, vae = places
    worlds = open_worlds(data)
    objective = world.world(data, tmp_path / "run", 2, autoencoder=str(vae)).objective
    assert isinstance(objective, WorldObjective)
    feed = objective.feed
    assert isinstance(feed, PathFeed)
    trained = [number for number, row in enumerate(worlds.rows) if row.split == "train"]
    assert feed.cameras.shape == (len(trained), worlds.length, 20)
    poses = torch.from_numpy(worlds.poses[trained[1]])
    torch.testing.assert_close(
        feed.cameras[1, :, :16].unflatten(1, (4, 4)), relative_poses(poses).float(), atol=1e-6, rtol=0
    )
    assert feed.cameras[1, 0, 16:].tolist() == pytest.approx(worlds.lenses[trained[1]].tolist())
    assert [one.name for one in objective.watched] == ["thing_", "path_"]
    held_out = [number for number, row in enumerate(worlds.rows) if row.split == "thing"]
    watched = cameras_of(worlds, held_out)
    assert any(torch.equal(objective.watched[0].cameras[0], one) for one in watched)  # pyright: ignore
    spread = feed.latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(spread.std(1), torch.ones(len(spread)), atol=0.3, rtol=0)


def test_an_autoencoder_is_needed(places: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pocket-video-autoencoder"):
        world.world(places[0], tmp_path / "run")
