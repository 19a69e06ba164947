"""The training loop, in sight from top to bottom.

An objective brings what is trained and how its loss is computed; the loop brings optimiser, schedule,
averaging, checkpoints and reports. Step k of a run draws its batch from a generator seeded by (seed, k): a
resumed run sees the batches that the uninterrupted one would have seen, and continues with the same losses.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import NumericsError, OutputError, WeightsError
from sanakit.train.checkpoint import load_checkpoint, save_checkpoint
from sanakit.train.config import TrainConfig
from sanakit.train.optim import make_optimizers, resume_optimizers


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

    folder: gets log.jsonl, TensorBoard events (if installed), sheets/ and checkpoint.pt with the averaged
    weights under "average". resume: go on from the folder's checkpoint if there is one, with the settings of
    `config`; otherwise the folder's log begins anew. Raises NumericsError on a loss or gradient that is not a
    number, WeightsError on a checkpoint that is damaged or of another model, OutputError on a full disk.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    model = objective.model
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizers = make_optimizers(model, config)
    state = load_checkpoint(folder) if resume else None
    first = 0 if state is None else _restore(state, model, average, optimizers)
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    moving: list[tuple[Tensor, Tensor]] = [(a, m) for a, m in pairs if m.requires_grad]
    averaged, trained = [a for a, _ in moving], [m for _, m in moving]
    device = trained[0].device
    with _writing(folder):
        log = _open_log(folder, first)
    losses: list[Tensor] = []
    started = time.monotonic()

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
            torch._foreach_lerp_(averaged, trained, 1 - decay)
        losses.append(loss.detach())

        # 4. Look at it
        done = step + 1
        last = done == config.steps
        if last or done % config.sheet_every == 0:
            sheet = objective.sheet(average)
            with _writing(folder):
                (folder / "sheets").mkdir(exist_ok=True)
                sheet.save(folder / "sheets" / f"{done:07d}.png")
        progress = None
        if last or done % config.log_every == 0 or done % config.evaluate_every == 0:
            progress = Progress(
                step=done,
                total=config.steps,
                loss=torch.stack(losses).mean().item(),
                grad_norm=norm.item(),
                rate=factor,
                seconds=time.monotonic() - started,
                metrics=objective.evaluate(average) if last or done % config.evaluate_every == 0 else {},
            )
            losses.clear()
            with _writing(folder):
                log(progress)

        # 5. Keep it, before the caller hears of it: who stops at a line finds the checkpoint of that line
        if last or done % config.checkpoint_every == 0:
            states = [optimizer.state_dict() for optimizer in optimizers]
            weights = {"model": model.state_dict(), "average": average.state_dict()}
            save_checkpoint(folder, {"step": done, **weights, "optimizers": states})
        if progress is not None:
            yield progress


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a write that failed into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Nothing can be written in {folder} ({error.strerror or error}): free space, or choose another "
            "output."
        ) from None


def _restore(
    state: dict[str, Any], model: nn.Module, average: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> int:
    """Put a checkpoint's content in its places and give the step to go on from."""
    try:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
    except RuntimeError as error:
        difference = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"The checkpoint is of another model ({difference} ...): resume with its own recipe, or start "
            "anew in another folder."
        ) from error
    resume_optimizers(optimizers, state["optimizers"])
    return state["step"]


def _open_log(folder: Path, first: int) -> Callable[[Progress], None]:
    """A function that appends a line to log.jsonl and, where installed, to TensorBoard's events.

    Lines after step `first` are dropped: a run that stopped between two checkpoints will write them again.
    """
    path = folder / "log.jsonl"
    rows = path.read_text().splitlines(keepends=True) if first and path.exists() else []
    kept = path.with_suffix(".part")
    kept.write_text("".join(row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= first))
    kept.replace(path)
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
