"""The report of a run: log.jsonl, sheets, TensorBoard, and requested trackers.

log.jsonl is the record, with one line per report of the loop. It resumes exactly: lines after the resumed
step are dropped and written again. TensorBoard does the same. wandb and trackio (extras of these names) get
the figures too, but keep what they were sent once. Rank 0 alone reports.
"""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from sanakit.errors import MissingExtraError, OutputError, SettingsError
from sanakit.train.config import TrainConfig
from sanakit.whole import written_whole

LOG = "log.jsonl"
SHEETS = "sheets"
PROJECT = "sanakit"  # under which trackers keep runs; the run's folder names the run
RUN_ID = "tracker_run"  # file that holds the run's name for wandb, which wants a unique one


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log."""

    step: int
    total: int
    loss: float  # mean of the steps since the last line that were not skipped
    grad_norm: float  # before clipping: clipping would hide a fault
    rate: float
    seconds: float  # since this process began
    metrics: dict[str, float]
    samples_per_second: float = 0.0  # of all ranks; measuring, sheets and checkpoints not counted
    data_wait: float = 0.0  # share of a step that this rank waits for its batch
    mfu: float | None = None  # part of the device's own rate of matrix products; None: not counted
    notes: tuple[str, ...] = ()  # what happened: skipped steps, damaged checkpoints

    def figures(self) -> dict[str, float]:
        """Return all that can be drawn as a curve, by name; non-numbers are omitted."""
        values = {
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "rate": self.rate,
            "samples_per_second": self.samples_per_second,
            "data_wait": self.data_wait,
            **({} if self.mfu is None else {"mfu": self.mfu}),
            **self.metrics,
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}


class Report:
    """An open report; made by `open_report`, closed by leaving its `with` block."""

    def __init__(self, folder: Path, first: int, board: Any, trackers: list[tuple[Any, Any]]) -> None:
        self._folder, self._board, self._trackers = folder, board, trackers
        self._step = first

    def line(self, progress: Progress) -> None:
        """Write the figures of a step, with its notes. Raises OutputError on a full disk."""
        self._step = progress.step
        figures = progress.figures()
        row: dict[str, Any] = {"step": progress.step, "seconds": round(progress.seconds, 1)}
        row |= {name: round(value, 6) for name, value in figures.items()}
        row |= {"notes": list(progress.notes)} if progress.notes else {}
        with writing(self._folder):
            self._append(row)
            if self._board is not None:
                for name, value in figures.items():
                    self._board.add_scalar(name, value, progress.step)
                self._board.flush()
        for _, run in self._trackers:
            run.log(figures, step=progress.step)
        for sentence in progress.notes:
            self._show(sentence)

    def note(self, sentence: str) -> None:
        """Write a sentence at once, for what must not wait for the next line, such as why a run ends."""
        with writing(self._folder):
            self._append({"step": self._step, "notes": [sentence]})
        self._show(sentence)

    def sheet(self, step: int, image: Image.Image) -> None:
        """Keep what was drawn after a step as sheets/STEP.png. Raises OutputError on a full disk."""
        with writing(self._folder):
            (self._folder / SHEETS).mkdir(exist_ok=True)
            with written_whole(self._folder / SHEETS / f"{step:07d}.png") as partial:
                image.save(partial, "PNG")
            if self._board is not None:
                pixels = np.asarray(image.convert("RGB"))
                self._board.add_image("sheet", pixels, step, dataformats="HWC")
        for package, run in self._trackers:
            run.log({"sheet": package.Image(image)}, step=step)

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()
        with redirect_stdout(sys.stderr):
            for _, run in self._trackers:
                run.finish()

    def _append(self, row: dict[str, Any]) -> None:
        with (self._folder / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _show(self, sentence: str) -> None:
        """Tell TensorBoard and the trackers a note."""
        if self._board is not None:
            self._board.add_text("notes", sentence, self._step)
        for _, run in self._trackers:
            run.alert(title="sana train", text=sentence)


def open_report(folder: Path, first: int, config: TrainConfig) -> Report:
    """Open the report of a run, to be used in a `with` block.

    folder: the run's; made if missing. first: the step it continues from, 0 for a new run, whose log begins
    again. TensorBoard's events are written if it is installed. config: its `trackers` name what else is.
    Raises OutputError when the folder cannot be written, MissingExtraError for a tracker that is not
    installed, SettingsError for one that is unknown or cannot begin.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(folder / LOG, first)
        board = _open_tensorboard(folder, first)
        run_id = _run_id(folder, first) if config.trackers else ""
    trackers = [_open_tracker(name, folder, first, config, run_id) for name in config.trackers]
    return Report(folder, first, board, trackers)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a write that failed into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder} is not writable ({error.strerror or error}): free space, or choose another output."
        ) from None


def _drop_lines_after(path: Path, first: int) -> None:
    """A run that stopped between two checkpoints writes the lines after the last one again.

    Lines that are damaged go, too.
    """
    rows = path.read_text(errors="replace").splitlines(keepends=True) if first and path.exists() else []
    kept = [row for row in rows if row.endswith("\n") and _step_of(row) <= first]
    with written_whole(path) as partial:
        partial.write_text("".join(kept))


def _step_of(row: str) -> float:
    """Return the step of a line of the log; infinity for a damaged line."""
    try:
        step = json.loads(row)["step"]
        return step if isinstance(step, int) else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def _open_tensorboard(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # It purges the step it is given too, and the line of `first` stays.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)


def _run_id(folder: Path, first: int) -> str:
    """Return the name of this run among all runs: a new one, or that of the run that goes on."""
    path = folder / RUN_ID
    if not first or not path.exists():
        with written_whole(path) as partial:
            partial.write_text(uuid.uuid4().hex)
    return path.read_text()


def _open_tracker(name: str, folder: Path, first: int, config: TrainConfig, run_id: str) -> tuple[Any, Any]:
    """Return a tracker's package and its run: both have `log`, `alert`, `finish` and an `Image`."""
    begun: dict[str, Any] = {"project": PROJECT, "name": folder.name, "config": asdict(config)}
    begun["resume"] = "allow" if first else "never"
    try:
        if name == "wandb":
            import wandb  # pyright: ignore[reportMissingImports]

            try:
                return wandb, wandb.init(**begun, id=run_id, dir=str(folder))
            except wandb.Error as error:
                raise SettingsError(
                    f"wandb started no run ({' '.join(str(error).split())[:200]}): log in with 'wandb "
                    "login', "
                    "set WANDB_MODE=offline, or remove it from the trackers."
                ) from error
        if name == "trackio":
            import trackio  # pyright: ignore[reportMissingImports]

            with redirect_stdout(sys.stderr):  # it introduces itself
                return trackio, trackio.init(**begun)
    except ImportError:
        raise MissingExtraError(name, name) from None
    raise SettingsError(f"There is no tracker {name!r}: use 'wandb' or 'trackio'.")
