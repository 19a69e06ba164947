"""The recipes of pocket lead from a data set to a folder that draws: one step each, on made-up pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from sanakit import recipes
from sanakit.data.pocket import FORMAT, PocketRow
from sanakit.data.pocket_concepts import COMMON_CONCEPTS
from sanakit.errors import DataError, SettingsError
from sanakit.recipes import pocket
from sanakit.train.autoencoder import AutoencoderObjective
from sanakit.train.checkpoint import open_checkpoint
from sanakit.train.pictures import Crops
from sanakit.weights import load_settings, load_transformer

STAGES = ("pocket-autoencoder", "pocket-decoder", "pocket")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of coloured discs under the names of common things, and two held out."""
    folder = tmp_path_factory.mktemp("pocket-data")
    y, x = np.mgrid[0:256, 0:256]
    images = np.full((14, 256, 256, 3), 255, np.uint8)
    rows = []
    for i, concept in enumerate([*list(COMMON_CONCEPTS)[:12], "anvil", "abacus"]):
        disc = (x - 128) ** 2 + (y - 128) ** 2 < (40 + 5 * i) ** 2
        images[i][disc] = [20 * i % 256, 255 - 15 * i, 60 * i % 256]
        split = "train" if i < 12 else "val"
        rows.append(
            PocketRow(
                name=concept,
                concept=concept,
                hex=f"{i:04x}",
                style="noto",
                style_tag="shaded cartoon emoji",
                group="objects",
                subgroup="tools",
                captions=[f"a shaded cartoon illustration of a {concept}", f"a {concept}"],
                licence="Apache-2.0",
                source="made up",
                split=split,
            )
        )
    np.save(folder / "images.npy", images)
    np.save(folder / "alpha.npy", np.uint8(255) * (images != 255).any(-1))
    (folder / "captions.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    (folder / "sources.json").write_text(json.dumps({"format": FORMAT, "packages": []}))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all three recipes, one step each."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:  # the recipes as they are, but cheap
        patch.setattr(pocket, "FLOW_MATCHING", replace(pocket.FLOW_MATCHING, compile=False, batch_size=4))
        patch.setattr(pocket, "AUTOENCODER", replace(pocket.AUTOENCODER, batch_size=4))
        patch.setattr(pocket, "DECODER", replace(pocket.DECODER, batch_size=4))
        _train_all(data, runs)
    return runs


def _train_all(data: Path, runs: Path) -> None:
    for name in STAGES:
        progress = list(recipes.start(name, data=data, output=runs / name, steps=1))
        assert progress[-1].step == 1


def test_the_finished_model_draws_with_its_own_defaults(trained: Path):
    settings = load_settings(trained / "pocket" / "model")
    assert {name: getattr(settings, name) for name in pocket.DEFAULTS} == pocket.DEFAULTS
    assert settings.flow_shift == pocket.SHIFT
    assert load_transformer(trained / "pocket" / "model").config == pocket.TRANSFORMER


def test_each_stage_leaves_a_sheet_a_log_and_a_checkpoint(trained: Path):
    for name in STAGES:
        run = trained / name
        assert (run / "sheets" / "0000001.png").is_file()
        assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] == 1
        saved = open_checkpoint(run)
        assert saved is not None
        assert saved.step == 1


def test_a_run_is_not_overwritten_without_being_asked_to_resume(data: Path, trained: Path):
    with pytest.raises(SettingsError, match="resume"):
        next(recipes.start("pocket-autoencoder", data=data, output=trained / "pocket-autoencoder", steps=2))


def test_a_stage_without_its_predecessor_says_so(data: Path, tmp_path: Path):
    with pytest.raises(DataError, match="pocket-autoencoder"):
        next(recipes.start("pocket", data=data, output=tmp_path / "pocket"))


def test_an_unknown_recipe_lists_the_known_ones(data: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match="pocket-autoencoder, pocket-decoder, pocket"):
        next(recipes.start("poket", data=data, output=tmp_path / "x"))


def test_another_number_of_steps_moves_the_change_to_whole_pictures(data: Path, tmp_path: Path):
    for steps, whole_from in ((None, 4250), (100, 85)):
        objective = pocket.autoencoder(data, tmp_path / "pocket-autoencoder", steps).objective
        assert isinstance(objective, AutoencoderObjective)
        assert isinstance(objective.pictures, Crops)
        assert objective.pictures.whole_from == whole_from
