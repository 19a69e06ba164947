"""Checkpoints that resume exactly: weights, averages, optimiser states and the step, in one file.

Random numbers need no saving: every step draws from a generator seeded by (seed, step).
Files are written whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from sanakit.errors import OutputError, WeightsError

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, strings, dicts, lists) to the folder's checkpoint, replacing the last one."""
    path = folder / NAME
    temporary = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"The checkpoint can not be written to {path}: {error.strerror}. Free space or choose --output."
        ) from error
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the folder's checkpoint, or None when there is none. Raises WeightsError when it is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged archives
        raise WeightsError(f"{path} is damaged ({type(error).__name__}): delete it to start anew.") from error
