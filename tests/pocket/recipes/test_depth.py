"""The recipes `grow` and `prune` lead from a finished model to another one: a step each, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.data.dataset import FORMAT, PocketRow
from sanakit.pocket.recipes import RECIPES, grow, prune
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.objectives.velocity import VelocityObjective
from sanakit.train.parts import Part
from sanakit.train.run import run_recipe
from sanakit.train.surgery.growth import silence
from sanakit.train.surgery.pruning import CALIBRATION_TIMES, calibration
from sanakit.weights import load_settings, load_transformer, save_diffusers

pytestmark = pytest.mark.thorough

Module = TypeVar("Module", bound=nn.Module)
STAGES = (Stage(8, 0), Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(16, 1), Stage(32, 1, (5,)))
AUTOENCODER = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8, scaling_factor=0.5)
GEMMA = Gemma2Config(
    vocab_size=600, width=48, depth=1, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
)
SANA = SanaConfig(depth=4, width=64, cross_heads=4, text_width=48, latent_channels=8, sample_size=8)
IDLE = (1, 2)  # blocks that do nothing
DEFAULTS = {"steps": 2, "guidance": 1.5, "width": 256, "height": 256, "solver": "euler"}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes without compiler, scenes (six things make none) and TensorBoard, which loads slowly."""
    for module, name in ((grow, "TRAINING"), (prune, "RECOVERY")):
        cheaper = replace(getattr(module, name), compile=False, bf16=False, batch_size=2)
        monkeypatch.setattr(module, name, cheaper)
    monkeypatch.setattr(prune, "MIXTURE", replace(prune.MIXTURE, scenes=0))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in one colour each."""
    folder = tmp_path_factory.mktemp("data")
    concepts = list(COMMON_CONCEPTS)[:6]
    images = np.stack([np.full((256, 256, 3), 40 * i, np.uint8) for i in range(len(concepts))])
    words = {"hex": "1", "style": "noto", "style_tag": "emoji", "group": "objects", "subgroup": "tools"}
    words |= {"licence": "Apache-2.0", "source": "made up", "split": "train"}
    rows = [PocketRow(name=one, concept=one, captions=[f"a {one}"], **words) for one in concepts]
    np.save(folder / "images.npy", images)
    np.save(folder / "alpha.npy", np.full(images.shape[:3], 255, np.uint8))
    (folder / "captions.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    (folder / "sources.json").write_text(json.dumps({"format": FORMAT, "packages": []}))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sana = randomised(Sana(SANA))
    for number in IDLE:
        silence(sana.blocks[number])
    tokenizer = train_tokenizer([COMPLEX_HUMAN_INSTRUCTION] * 20, GEMMA.vocab_size)
    return save_diffusers(
        tmp_path_factory.mktemp("source") / "model",
        transformer=sana,
        autoencoder=randomised(DCAE(AUTOENCODER)),
        text_encoder=TextEncoder(randomised(Gemma2(GEMMA)), tokenizer),
        flow_shift=2.0,
        defaults=DEFAULTS,
        name="tiny",
        licence="Apache-2.0",
    )


def randomised(module: Module) -> Module:
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    return module


@pytest.mark.parametrize(("recipe", "depth"), [("grow", 8), ("prune", 2)])
def test_a_finished_model_becomes_another_that_draws(
    recipe: str, depth: int, data: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / recipe
    *_, last = run_recipe(recipe, RECIPES, data=data, output=output, steps=1, source=source)
    assert last.step == 1
    assert load_transformer(output / "model").config == replace(SANA, depth=depth)
    settings = load_settings(output / "model")
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert (settings.name, settings.flow_shift) == (f"tiny-{'grown' if recipe == 'grow' else 'pruned'}", 2.0)
    drawn = TextToImage.from_pretrained(output / "model", device="cpu")("a cat", seed=0, width=64, height=64)
    assert drawn.images[0].size == (64, 64)  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_pruned_are_the_blocks_that_do_nothing(data: Path, source: Path, tmp_path: Path) -> None:
    """So the pruned model starts with the losses of the whole one, to the bit."""
    whole = load_transformer(source)
    pruned = prune.prune(data, tmp_path, 1, source=source).objective
    assert isinstance(pruned, VelocityObjective)
    with torch.no_grad():
        for arguments in calibration(pruned):
            assert torch.equal(pruned.transformer(*arguments), whole(*arguments))


def test_growing_drops_a_tenth_of_the_blocks(data: Path, source: Path, tmp_path: Path, monkeypatch) -> None:
    whole = load_transformer(source)
    for share, dropped in ((0.1, 0), (0.25, 1)):
        monkeypatch.setattr(grow, "DROPPED_SHARE", share)
        grown = grow.grow(data, tmp_path, 1, source=source).objective
        assert isinstance(grown, VelocityObjective)
        for number, block in enumerate(whole.blocks):
            same = torch.equal(block.attn.proj.weight, grown.transformer.blocks[number].attn.proj.weight)
            assert same == (number < 4 - dropped)


def test_the_text_encoder_stands_still_with_a_teacher_and_without(
    data: Path, source: Path, tmp_path: Path
) -> None:
    """It was taught before: captions of drawings must not unteach it."""
    for recipe, taught in ((grow.grow, False), (prune.prune, True)):
        objective = recipe(data, tmp_path, 1, source=source).objective
        assert isinstance(objective, VelocityObjective)
        assert (objective.teacher is not None) == taught
        assert all(parameter.requires_grad for parameter in objective.model.parameters())
        assert {name.split(".")[0] for name, _ in objective.model.named_parameters()} == {"transformer"}
        assert not any(parameter.requires_grad for parameter in objective.encoder.model.parameters())


def test_a_pruned_model_starts_at_no_distance_where_idle_blocks_are_missing(
    data: Path, source: Path, tmp_path: Path
) -> None:
    objective = prune.prune(data, tmp_path, 1, source=source).objective
    assert isinstance(objective, VelocityObjective)
    batch = objective.batch(0, Part(0, 8, 8))
    assert objective.loss(batch).item() < 1e-9
    assert objective.teacher is not None
    taught = objective.flops(batch)
    objective.teacher = None
    assert objective.loss(batch).item() > 0.1  # the images are not learned at all
    alone = objective.flops(batch)
    assert alone < taught  # by a forward pass of twice as many blocks


def test_calibration_spans_noise_levels_and_has_prompts_without_words(
    data: Path, source: Path, tmp_path: Path
) -> None:
    objective = prune.prune(data, tmp_path, 1, source=source).objective
    assert isinstance(objective, VelocityObjective)
    batches = list(calibration(objective, count=4))
    assert [float(t[0]) for _, t, _, _ in batches] == pytest.approx(CALIBRATION_TIMES)
    for latents, t, text, mask in batches:
        assert latents.shape == (4, 8, 8, 8)
        assert len(t) == len(text) == 4
        assert mask is not None
        assert mask.sum(1).tolist()[0] == 1
        assert min(mask.sum(1).tolist()[1:]) > 1


def test_a_recipe_that_begins_with_nothing_takes_no_source(data: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="omit --source"):
        next(run_recipe("pocket-autoencoder", RECIPES, data=data, output=tmp_path / "x", source=source))
