"""What a run does before it begins: blocks are compiled for as many shapes as its batches have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sanakit.train import run
from sanakit.train.run import SHAPES_COMPILED, compile_blocks


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
