"""A linear map that a small network learns, and the log of its training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.train.config import TrainConfig
from sanakit.train.parts import Part, sample_noise

CONFIG = TrainConfig(
    steps=12,
    batch_size=8,
    learning_rate=0.01,
    warmup_steps=3,
    log_every=2,
    evaluate_every=6,
    sheet_every=6,
    checkpoint_every=4,
)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Conv1d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(self.qkv(x).tanh()[..., None])[..., 0]


class Regression:
    """Learn a fixed linear map through two blocks; one layer is frozen."""

    def __init__(self, seed: int = 0, data_seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = nn.Module()
        self.model.start = nn.Linear(6, 6).requires_grad_(False)
        self.model.blocks = nn.Sequential(Block(6), Block(6))
        self.wanted = torch.randn(6, 6, generator=torch.Generator().manual_seed(9))
        self.poisoned: set[int] = set()
        self.seed = data_seed
        self.begun: tuple[int, Sequence[Part]] | None = None

    def _loss(self, model: nn.Module, x: Tensor) -> Tensor:
        return (model.blocks(model.start(x)).float() - x @ self.wanted).square().mean()

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        self.begun = (first, parts)

    def batch(self, step: int, part: Part) -> tuple[Tensor, float]:
        x = sample_noise(self.seed, step, part, (6,))
        return x, part.weight * (math.nan if step in self.poisoned else 1)

    def loss(self, batch: tuple[Tensor, float]) -> Tensor:
        x, weight = batch
        return self._loss(self.model, x) * weight

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        assert not torch.is_grad_enabled() or not any(p.requires_grad for p in averaged.parameters())
        return {"error": self._loss(averaged, sample_noise(7, 0, Part(0, 8, 8), (6,))).item()}

    def sheet(self, averaged: nn.Module) -> Image.Image:
        return Image.new("RGB", (4, 4), "red")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
