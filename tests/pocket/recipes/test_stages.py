"""`sana train pocket-further --smoke`: a tiny model goes through all stages, and what each leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn

from sanakit import TextToImage
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pocket.data import toy
from sanakit.pocket.recipes import RECIPES, stages
from sanakit.pocket.train import drawings, foreign, runs
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.run import run_recipe
from sanakit.weights import (
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)

pytestmark = pytest.mark.thorough

Module = TypeVar("Module", bound=nn.Module)
BLOCKS = (Stage(8, 0), Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(16, 1), Stage(32, 1))
AUTOENCODER = DCAEConfig(encoder=BLOCKS, decoder=BLOCKS, latent_channels=8, scaling_factor=0.5)
GEMMA = Gemma2Config(
    vocab_size=600, width=48, depth=1, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
)
SANA = SanaConfig(
    depth=1,
    width=64,
    cross_heads=2,
    text_width=48,
    latent_channels=8,
    sample_size=8,
    qk_norm=True,
    time_scale=1.0,
)
NAMES = ("pocket-names", "pocket-refine", "pocket-poses", "pocket-512")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Fewer shapes, samples, texts and images on sheets, and no TensorBoard: the way is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 6)
        patch.setattr(drawings, "SHEET", drawings.SHEET[:2])
        patch.setattr(drawings, "WATCHED_SCENES", 2)
        patch.setattr(foreign, "WATCHED_CAPTIONS", 4)
        patch.setattr(foreign, "SCENES", 8)
        patch.setattr(runs, "SCENES", 8)
        patch.setattr(stages, "TRANSFORMER", SANA)
        for mix in ("POSES", "DOUBLE"):
            patch.setattr(stages, mix, replace(getattr(stages, mix), varied=1, designs={"noto": 1.0}))
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        yield


def randomised(module: Module) -> Module:
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer([COMPLEX_HUMAN_INSTRUCTION] * 20, GEMMA.vocab_size)
    return save_diffusers(
        tmp_path_factory.mktemp("source") / "model",
        transformer=randomised(Sana(SANA)),
        autoencoder=randomised(DCAE(AUTOENCODER)),
        text_encoder=TextEncoder(randomised(Gemma2(GEMMA)), tokenizer),
        defaults={"steps": 2, "guidance": 1.5, "width": 256, "height": 256, "solver": "euler"},
        name="tiny",
        licence="Apache-2.0",
    )


@pytest.fixture(scope="module")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the whole recipe."""
    data = toy.build_toy(tmp_path_factory.mktemp("data") / "pocket")
    output = tmp_path_factory.mktemp("runs")
    progress = list(
        run_recipe("pocket-further", RECIPES, data=data, output=output, source=source, smoke=True)
    )
    assert [line.step for line in progress if line.step == line.total] == [2] * len(NAMES)
    return output


def weights(load, model: Path) -> dict[str, torch.Tensor]:
    loaded = load(model, dtype="float32")
    return getattr(loaded, "model", loaded).state_dict()


def test_each_stage_changes_its_own_part_and_keeps_the_others(trained: Path, source: Path):
    def part(load, model: Path) -> dict[str, torch.Tensor]:
        return {name: weight.half() for name, weight in weights(load, model).items()}

    before = source
    changed = []
    for name in NAMES:
        after = trained / name / "model"
        loads = {"text": load_text_encoder, "decoder": _both, "transformer": load_transformer}
        same = {
            kind: all(torch.equal(one, part(load, before)[key]) for key, one in part(load, after).items())
            for kind, load in loads.items()
        }
        changed.append([kind for kind, equal in same.items() if not equal])
        before = after
    assert changed == [["text"], ["decoder"], ["transformer"], ["transformer"]]


def test_the_encoder_goes_no_further_from_its_source_than_the_way(source: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stages, "WAY", 0.0)
    data, output = toy.build_toy(tmp_path / "pocket"), tmp_path / "names"
    list(run_recipe("pocket-names", RECIPES, data=data, output=output, source=source, smoke=True))
    before, after = weights(load_text_encoder, source), weights(load_text_encoder, output / "model")
    assert {name: weight.half().tolist() for name, weight in before.items()} == {
        name: weight.half().tolist() for name, weight in after.items()
    }


def _both(model: Path, dtype: str) -> nn.Module:
    return load_image_autoencoder(model, part="both", dtype=dtype)


def test_the_last_model_draws_at_512_px_and_offers_it(trained: Path):
    model = trained / "pocket-512" / "model"
    settings = load_settings(model)
    assert (settings.width, settings.height) == (512, 512)
    assert settings.sizes == ((512, 512),)
    drawn = TextToImage.from_pretrained(model)("a fox", steps=1, output="pt").images
    assert torch.as_tensor(drawn).shape == (1, 3, 512, 512)  # pyright: ignore[reportArgumentType]


def test_latents_of_the_last_stage_are_of_five_canvases(trained: Path):
    pools = {file.name for file in (trained / "pocket-512" / "pool").glob("*.npy")}
    assert {"512x512.npy", "704x384.npy", "448x576.npy"} <= pools
    pools = {file.name for file in (trained / "pocket-poses" / "pool").glob("*.npy")}
    assert pools == {"256x256.npy"}


def test_a_run_tells_its_mix_and_its_source(trained: Path):
    record = json.loads((trained / "pocket-poses" / "config.json").read_text())
    assert record["choices"]["mix"]["posed"] == stages.POSES.posed
    assert record["choices"]["side"] == 256
    assert record["source"]["name"].endswith("pocket-refine/model")
