"""Checkpoints that resume exactly: weights, averages, optimiser states and the step, in one file.

Random numbers need no saving: every step draws from a generator seeded by (seed, step).
Files are written whole or not at all.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from sanakit.errors import OutputError, WeightsError

NAME = "checkpoint.pt"
# What zipfile raises for archives that were cut, overwritten or never were one; then what torch raises for an
# archive in good order that holds something else.
DAMAGES = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, zlib.error)
MISFITS = (UnpicklingError, RuntimeError)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, strings, dicts, lists) to the folder's checkpoint and give its path.

    The last one is replaced only when the new one is whole. Raises OutputError when it can not be written.
    """
    path = folder / NAME
    temporary = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        with suppress(OSError):
            temporary.unlink()
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        reason = cause.strerror if isinstance(cause, OSError) else "it did not arrive whole"
        raise OutputError(
            f"The checkpoint can not be written to {path}: {reason}. Free space or choose --output."
        ) from error
    return path


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a checkpoint, whole or damaged."""
    return (folder / NAME).exists()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the folder's checkpoint, or None when there is none.

    Raises WeightsError when it is damaged or holds more than tensors, numbers, strings, dicts and lists.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()  # torch.load compares no checksums: a flipped bit would pass as a weight
    except OSError as error:
        raise WeightsError(f"{path} can not be read: {error.strerror}.") from error
    except (*DAMAGES, RuntimeError) as error:
        what = type(error).__name__
        raise WeightsError(f"{path} is damaged ({what}): delete it to start anew.") from error
    if bad is not None:
        raise WeightsError(f"{path} is damaged (checksum of {bad}): delete it to start anew.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MISFITS as error:
        raise WeightsError(f"{path} is no checkpoint of a training run: delete it to start anew.") from error
