"""Each of two processes runs it: `python train_here.py IMAGES MODEL OUTPUT`; tests train alone with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from sanakit.recipes import RECIPES, finetune
from sanakit.train.run import run_recipe


def train_here(data: Path, source: Path, output: Path) -> None:
    list(run_recipe("finetune", RECIPES, data=data, output=output, source=source, steps=3, batch_size=4))


if __name__ == "__main__":
    finetune.WORKERS = 0
    finetune.SMALL = replace(finetune.SMALL, log_every=1, evaluate_every=100, sheet_every=100)
    sys.modules["torch.utils.tensorboard"] = None  # pyright: ignore[reportArgumentType]
    train_here(*map(Path, sys.argv[1:]))
