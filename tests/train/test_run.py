"""What a run does before it begins: blocks are compiled for as many shapes as its batches have."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sanakit.errors import DataError, SettingsError, WeightsError
from sanakit.recipes import RECIPES
from sanakit.train import run
from sanakit.train.run import SHAPES_COMPILED, compile_blocks, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.train.state.checkpoint import SINGLE_FILE, save_checkpoint


class Block(nn.Module):
    """torch compiles no module of its own by itself, so this is one of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Blocks(nn.Module):
    """As much of a transformer as `compile_blocks` looks at."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch.compile with a compiler that only counts what it is given."""
    testing = pytest.importorskip("torch._dynamo.testing")
    config = pytest.importorskip("torch._dynamo.config")
    counter, compile_ = testing.CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend=counter, **options))
    monkeypatch.setattr(run, "has_compiler", lambda device: True)
    torch._dynamo.reset()
    with config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield counter
    torch._dynamo.reset()


def test_the_ninth_shape_is_compiled_as_the_first(counted: Any) -> None:
    """torch's own limit is eight, beyond which a block runs as written: with one line of warning."""
    transformer = Blocks(2)
    compile_blocks(transformer)  # pyright: ignore[reportArgumentType]
    for length in range(2, 12):
        for block in transformer.blocks:
            block(torch.zeros(length, 3))
    assert counted.frame_count >= 10
    before = counted.frame_count
    transformer.blocks[0](torch.zeros(2, 3))
    assert counted.frame_count == before


def test_the_limit_is_for_all_blocks(counted: Any) -> None:
    config = pytest.importorskip("torch._dynamo.config")
    compile_blocks(Blocks(60))  # pyright: ignore[reportArgumentType]
    assert config.recompile_limit == SHAPES_COMPILED == 64
    assert config.accumulated_recompile_limit == SHAPES_COMPILED * 60


def test_without_a_compiler_nothing_is_changed(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("torch._dynamo.config")
    monkeypatch.setattr(run, "has_compiler", lambda device: False)
    transformer = Blocks(1)
    compile_blocks(transformer)  # pyright: ignore[reportArgumentType]
    transformer.blocks[0](torch.zeros(2, 3))
    assert (counted.frame_count, config.recompile_limit) == (0, 8)


def test_averages_fill_the_module_that_they_are_of(tmp_path: Path) -> None:
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    tensors = {"model.text.weight": weight - 9, "average.text.weight": weight, "average.text.bias": bias}
    save_checkpoint(tmp_path, 1, tensors, {})
    module = nn.Linear(3, 2)
    fill_averaged(module, tmp_path, partial(part_of, name="text"))
    assert torch.equal(module.weight, weight)
    assert torch.equal(module.bias, bias)


@pytest.mark.parametrize(
    ("average", "what"),
    [
        ({"weight": torch.zeros(2, 3)}, "bias: missing instead of"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, r"weight: \(3, 2\) instead of \(2, 3\)"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)},
            "x: .* instead of missing",
        ),
        ({"other": torch.zeros(2)}, "bias: missing"),
    ],
)
def test_averages_of_another_model_are_one_sentence(tmp_path: Path, average: dict, what: str) -> None:
    torch.save({"average": average}, tmp_path / SINGLE_FILE)
    with pytest.raises(WeightsError, match=f"is of another model \\({what}"):
        fill_averaged(nn.Linear(3, 2), tmp_path)
    with pytest.raises(DataError, match="holds no checkpoint"):
        fill_averaged(nn.Linear(3, 2), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "told"), [("SPRINT", "did you mean sprint?"), ("xyz", "choose one of first, ")]
)
def test_an_unknown_recipe_has_its_nearest(tmp_path: Path, name: str, told: str) -> None:
    recipes = {"first": ("none", "none"), "sprint": ("none", "none")}
    with pytest.raises(SettingsError, match=re.escape(f"There is no recipe {name!r}: {told}")):
        next(run.run_recipe(name, recipes, data=tmp_path, output=tmp_path / "out"))


@pytest.mark.parametrize("place", [".", "below", "link/runs"])
def test_a_training_does_not_write_into_its_data(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(data)
    with pytest.raises(SettingsError, match="lies in the data set, and what a training writes would be read"):
        next(run.run_recipe("finetune", RECIPES, data=data, output=data / place))
    assert [path.name for path in data.iterdir()] == ["link"]
