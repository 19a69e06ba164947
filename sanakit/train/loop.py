"""The training loop, in sight from top to bottom.

An objective brings what is trained and how its loss is computed; the loop brings optimiser, schedule, averaging,
checkpoints and reports. Step k of a run draws its batch from a generator seeded by (seed, k): a resumed run sees the
batches that the uninterrupted one would have seen, and continues with the same losses.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import NumericsError
from sanakit.train.checkpoint import load_checkpoint, save_checkpoint
from sanakit.train.config import TrainConfig
from sanakit.train.optim import make_optimizers


class Objective(Protocol):
    """What the loop asks of a training objective."""

    model: nn.Module

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Draw the batch of a step and give its loss; called under autocast when the config says bf16."""
        ...

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the averaged weights."""
        ...

    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw what the averaged weights can do, to be looked at."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log."""

    step: int
    total: int
    loss: float
    grad_norm: float  # before clipping: clipping would hide a fault
    rate: float
    seconds: float
    metrics: dict[str, float]


def train(
    objective: Objective, config: TrainConfig, folder: Path, *, resume: bool = False
) -> Iterator[Progress]:
    """Train and yield progress every `log_every` steps; the caller prints it, or stops by no longer asking.

    folder: gets log.jsonl, TensorBoard events (if installed), sheets/ and checkpoint.pt with the averaged weights
    under "average". resume: go on from the folder's checkpoint if there is one. Raises NumericsError on a loss that
    is not a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = objective.model
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizers = make_optimizers(model, config)
    first = 0
    if resume and (state := load_checkpoint(folder)) is not None:
        first = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = trained[0].device
    log = _open_log(folder, first)
    losses: list[Tensor] = []
    started = time.monotonic()

    def save(step: int) -> None:
        save_checkpoint(
            folder,
            {
                "step": step,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            },
        )

    for step in range(first, config.steps):
        # 1. The learning rate of this step
        factor = config.rate(step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor

        # 2. Loss and gradients
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss = objective.loss(step, generator)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
        if not torch.isfinite(norm):
            raise NumericsError(
                f"Loss {loss.item()} or its gradient is not a number at step {step}: lower the learning rate"
                f" ({config.learning_rate}) and go on with --resume."
            )

        # 3. Update the weights and their average
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            pairs = zip(average.parameters(), model.parameters(), strict=True)
            followers, leaders = zip(*((a, m) for a, m in pairs if m.requires_grad), strict=True)
            torch._foreach_lerp_(list(followers), list(leaders), 1 - decay)
        losses.append(loss.detach())

        # 4. Look at it
        done = step + 1
        last = done == config.steps
        if last or done % config.sheet_every == 0:
            (folder / "sheets").mkdir(exist_ok=True)
            objective.sheet(average).save(folder / "sheets" / f"{done:07d}.png")
        if last or done % config.log_every == 0 or done % config.evaluate_every == 0:
            measured = objective.evaluate(average) if last or done % config.evaluate_every == 0 else {}
            progress = Progress(
                done,
                config.steps,
                torch.stack(losses).mean().item(),
                norm.item(),
                factor,
                time.monotonic() - started,
                measured,
            )
            losses.clear()
            log(progress)
            yield progress
        if last or done % config.checkpoint_every == 0:
            save(done)


def _open_log(folder: Path, first: int) -> Callable[[Progress], None]:
    """A function that appends a line to log.jsonl and, where installed, to TensorBoard's events."""
    path = folder / "log.jsonl"
    if not first:
        path.unlink(missing_ok=True)
    try:
        from torch.utils.tensorboard import SummaryWriter

        board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
    except ImportError:
        board = None

    def log(progress: Progress) -> None:
        values = {
            "loss": progress.loss,
            "grad_norm": progress.grad_norm,
            "rate": progress.rate,
            **progress.metrics,
        }
        row = {"step": progress.step, "seconds": round(progress.seconds, 1)}
        row |= {name: round(value, 6) for name, value in values.items() if math.isfinite(value)}
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if board is not None:
            for name, value in values.items():
                board.add_scalar(name, value, progress.step)
            board.flush()

    return log
