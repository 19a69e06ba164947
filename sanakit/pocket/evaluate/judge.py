"""The judge of composed scenes: which of the 200 common things are in an image, where, and how large.

A small convolutional network looks at an image in cells of 32 px. Each cell near the middle of a thing names
it (the others say: nothing) and its size; cells that touch are one thing. It was trained on scenes composed
of real images (`sanakit.pocket.train.judge`), never on drawn ones.
Shapes: B images of 256 x 256, N concepts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sanakit.errors import DataError
from sanakit.whole import written_whole

FOLDER = Path(__file__).parents[2] / "assets" / "pocket_judge"
WEIGHTS = "judge.safetensors"
CELL = 32  # px
CELLS = 8  # per side
SEEN = 0.5  # chance of a thing, from which on a cell counts


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing seen. concept: its name. x, y: middle, side: of its square, all in px."""

    concept: str
    x: float
    y: float
    side: float


class SceneJudge(nn.Module):
    """Names, per cell of an image, the thing whose middle is near. concepts: N names."""

    def __init__(self, concepts: Sequence[str]) -> None:
        super().__init__()
        self.concepts = tuple(concepts)
        self.trunk = nn.Sequential(
            _down(3, 24),
            _down(24, 48),
            _Residual(48),
            _down(48, 96),
            _Residual(96),
            _Residual(96),
            _down(96, 160),
            *(_Residual(160) for _ in range(3)),
        )
        self.head = nn.Conv2d(160, len(concepts) + 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge B 3 128 128 in [-1, 1]: logits B N+1 8 8 (0: nothing), and log2(side / 128 px) B 8 8."""
        seen = self.head(self.trunk(images))
        return seen[:, :-1], seen[:, -1]

    @torch.no_grad()
    def look(self, images: Tensor) -> list[list[Thing]]:
        """Find the things in each image (B 3 256 256 in [-1, 1])."""
        logits, sizes = self(F.avg_pool2d(images, 2).to(self.head.weight))
        chances = logits.float().softmax(1)
        return [self._things(*seen) for seen in zip(chances, sizes.float(), strict=True)]

    def _things(self, chances: Tensor, sizes: Tensor) -> list[Thing]:
        weights = (1 - chances[0]).tolist()
        left = {(y, x) for y in range(CELLS) for x in range(CELLS) if weights[y][x] > SEEN}
        things = []
        while left:
            group, border = [], [left.pop()]
            while border:
                y, x = border.pop()
                group.append((y, x))
                beside = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
                left -= beside
                border.extend(beside)
            total = sum(weights[y][x] for y, x in group)
            across = CELL * (0.5 + sum(weights[y][x] * x for y, x in group) / total)
            down = CELL * (0.5 + sum(weights[y][x] * y for y, x in group) / total)
            rows, columns = [y for y, _ in group], [x for _, x in group]
            concept = int(chances[1:, rows, columns].sum(1).argmax())
            side = 128 * 2 ** sizes[rows, columns].mean().item()
            things.append(Thing(self.concepts[concept], across, down, side))
        return things


def load_judge(folder: str | Path = FOLDER) -> tuple[SceneJudge, dict[str, Any]]:
    """Read a judge and what was written with it (`questions`, `accuracy`), by default the one that ships.

    Raises DataError if the file is missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["judge"])
            judge = SceneJudge(notes["concepts"])
            judge.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"The judge in {folder} cannot be read ({error}): install sanakit again.") from error
    return judge.eval(), notes


def save_judge(folder: str | Path, judge: SceneJudge, notes: dict[str, Any]) -> None:
    """Write a judge in half precision, whole or not at all. notes: what to keep with it, as JSON.

    Raises DataError if the folder cannot be written.
    """
    folder = Path(folder)
    tensors = {name: tensor.half().contiguous() for name, tensor in judge.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / WEIGHTS) as partial:
            partial.write_bytes(save(tensors, {"judge": json.dumps({"concepts": judge.concepts, **notes})}))
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}): choose another folder.") from error


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _same(width), _same(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _same(width: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
