"""Checkpoints that resume exactly, on any number of ranks: folders of safetensors and one page of numbers.

    run/checkpoint-0000500/shard-*.safetensors   tensors, each rank's shards in files of its own
                           manifest.json         step, numbers, and every file's size and checksum

torch.distributed.checkpoint writes and reads the tensors, and cuts them again where the number of ranks has
changed. Its own format keeps a pickle beside them, which can run code when read. Its safetensors format,
which holds only tensors, is used instead, with JSON for the rest. Nothing in a checkpoint is ever executed.

A folder is written as checkpoint-*.part and renamed when it is whole; the last two are kept.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sanakit.errors import OutputError, WeightsError
from sanakit.train.distributed.parallel import current_share
from sanakit.whole import sync_names, written_whole

NAME = re.compile(r"checkpoint-(\d{7,})")
MANIFEST = "manifest.json"
FORMAT = 1
DTYPES = {
    str(dtype): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
KEPT = 2  # checkpoints of a run: should the last be damaged, the one before takes over
FILE_BYTES = 2 << 30  # a file is put together in memory before it is written
SINGLE_FILE = "checkpoint.pt"  # of runs before there were folders: only their average can be used
Numbers = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint whose files are whole.

    tensors: their shapes and dtypes, by name, as tensors on the meta device. numbers: the numbers saved
    beside them. notes: sentences about newer checkpoints that were damaged.
    """

    path: Path
    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    notes: tuple[str, ...] = ()

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, shards of DTensors too; every rank has to take part.

        Raises WeightsError when the checkpoint lacks one of them or holds it in another shape.
        """
        from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

        for name, tensor in tensors.items():
            found = tuple(self.tensors[name].shape) if name in self.tensors else "missing"
            if found != tuple(tensor.shape):
                raise WeightsError(
                    f"{self.path} is of another model or optimiser ({name}: {found} instead of "
                    f"{tuple(tensor.shape)}): resume with its own recipe, or start from scratch in another "
                    "folder."
                )
        try:
            with _alone_is_fine():
                load(
                    {name: tensor.detach() for name, tensor in tensors.items()},
                    storage_reader=HuggingFaceStorageReader(str(self.path)),
                    no_dist=current_share().world == 1,
                )
        except CheckpointException as error:
            raise WeightsError(f"{self.path} cannot be read: {_first_line(error)}.") from error


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> Path:
    """Write a checkpoint of a step and return its folder; every rank has to take part.

    tensors: by name, plain ones the same on all ranks, DTensors by their shards. numbers: JSON values.
    Delete checkpoints of later steps (left by an abandoned run) and all but the two newest.
    Raises OutputError on every rank when it cannot be written; the last ones then stay as they are.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    share = current_share()
    path = folder / f"checkpoint-{step:07d}"
    temporary = path.with_suffix(".part")
    with _writing(path):
        _together(partial(_make_empty, temporary), when=share.rank == 0)
        writer = HuggingFaceStorageWriter(
            str(temporary), fqn_to_index_mapping=_files(tensors), save_distributed=True
        )
        with _alone_is_fine():
            save(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                storage_writer=writer,
                no_dist=share.world == 1,
            )
        sums = _checksums(temporary)
        kinds = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
        manifest = {
            "format": FORMAT,
            "step": step,
            "numbers": dict(numbers),
            "tensors": kinds,
            "files": sums,
        }
        _together(partial(_complete, temporary, path, manifest), when=share.rank == 0)
    return path


def has_checkpoint(folder: Path) -> bool:
    """Return whether the folder holds a checkpoint, whole or damaged."""
    return bool(_found(folder)) or (folder / SINGLE_FILE).exists()


def last_step(folder: Path) -> int:
    """Return the step of the folder's newest checkpoint, whole or damaged; 0 without one."""
    return max(map(_step, _found(folder)), default=0)


def open_checkpoint(folder: Path, check: Callable[[Numbers], object] | None = None) -> Saved | None:
    """Return the folder's last checkpoint that can be read, or None when there is none.

    Its files are as they were written and hold the tensors that its manifest names. check: called with the
    numbers; a KeyError, TypeError, ValueError or AttributeError of its means that they are damaged.
    Every rank has to take part. Raises WeightsError when there are some but all are damaged, or only a
    single file of an earlier version.
    """
    notes: list[str] = []
    for path in _found(folder):
        try:
            manifest, tensors = _read_manifest(path, check)
            _together(partial(_verify, path, manifest["files"], tensors), when=True)
            return Saved(path, manifest["step"], tensors, manifest["numbers"], tuple(notes))
        except WeightsError as error:
            notes.append(f"{error} Continuing from the checkpoint before it.")
    if notes:
        last = notes[0].removesuffix(" Continuing from the checkpoint before it.")
        raise WeightsError(f"{last} There is no earlier checkpoint: delete it to start from scratch.")
    if (folder / SINGLE_FILE).exists():
        raise WeightsError(
            f"{folder / SINGLE_FILE} was written by an earlier version and cannot be resumed; later "
            "stages can use its weights. Start from scratch in another folder."
        )
    return None


def load_average(folder: Path) -> dict[str, Tensor] | None:
    """Return a run's averaged weights by their names in the model's state_dict, or None without a checkpoint.

    A single file of an earlier version is read, too. A newer checkpoint that is damaged is told in the log.
    Raises WeightsError when all are damaged.
    """
    if not _found(folder):
        path = folder / SINGLE_FILE
        return _read_single_file(path) if path.exists() else None
    saved = open_checkpoint(folder)
    assert saved is not None
    for note in saved.notes:
        log.warning(note)
    parts: dict[str, dict[str, str]] = {"model": {}, "average": {}}
    for name in saved.tensors:
        part, _, own = name.partition(".")
        if part in parts:
            parts[part][own] = name
    names = parts["model"] | parts["average"]  # what is not trained has no average
    if not names:
        raise WeightsError(f"{saved.path} holds no weights of a model: start from scratch in another folder.")
    tensors = {own: torch.empty_like(saved.tensors[name], device="cpu") for own, name in names.items()}
    saved.read({names[own]: tensor for own, tensor in tensors.items()})
    return tensors


def _found(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read_manifest(
    path: Path, check: Callable[[Numbers], object] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a checkpoint's manifest and its tensors, on the meta device; check: as for `open_checkpoint`."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        body = {name: manifest[name] for name in ("format", "step", "numbers", "tensors", "files")}
        if manifest["checksum"] != _text_checksum(body):
            raise WeightsError(f"{path} is damaged (checksum of {MANIFEST}).")
        if body["format"] != FORMAT:
            raise WeightsError(f"{path} has format {body['format']!r}, but this version reads {FORMAT}.")
        if type(body["step"]) is not int or body["step"] != _step(path):
            raise ValueError(f"step {body['step']!r}")
        if not isinstance(body["files"], dict):
            raise TypeError(f"files {body['files']!r}")
        if not body["tensors"]:
            raise ValueError("no tensors")
        tensors = {
            name: torch.empty(shape, dtype=DTYPES[dtype], device="meta")
            for name, (dtype, shape) in body["tensors"].items()
        }
        if check is not None:
            check(body["numbers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"{path} is damaged ({MANIFEST}: {type(error).__name__}).") from error
    return body, tensors


def _text_checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _checksums(folder: Path) -> dict[str, list[int]]:
    """Return size and CRC-32 of every file; each rank reads some of them."""
    share = current_share()
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    mine = {name: _checksum(folder / name) for name in names[share.rank :: share.world]}
    if share.world == 1:
        return mine
    parts: list[Any] = [None] * share.world
    dist.all_gather_object(parts, mine)
    return {name: sums for part in parts for name, sums in part.items()}


def _checksum(path: Path) -> list[int]:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return [path.stat().st_size, checksum]


def _verify(path: Path, files: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare this rank's part of the files, and all headers with the tensors that have to be there.

    torch compares no checksums: a flipped bit would be a weight.
    """
    share = current_share()
    for name in sorted(files)[share.rank :: share.world]:
        try:
            whole = _checksum(path / Path(name).name) == files[name]
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} is damaged ({name!r}: {error}).") from error
        if not whole:
            raise WeightsError(f"{path} is damaged (checksum of {name}).")
    if strange := {file.name for file in path.glob("*.safetensors")} - set(files):
        raise WeightsError(f"{path} is damaged ({min(strange)} does not belong to it).")
    held = _held(path)
    for name, tensor in tensors.items():
        if held.get(name) != (tensor.dtype, tensor.shape, tensor.numel()):
            raise WeightsError(f"{path} is damaged ({name} is not in its files as {MANIFEST} says).")


def _held(path: Path) -> dict[str, tuple[torch.dtype, torch.Size, int]]:
    """Return dtype, shape and number of stored values of every tensor in a checkpoint's files."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        metadata = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except Exception as error:  # torch and safetensors raise whatever comes
        raise WeightsError(
            f"{path} is damaged ({type(error).__name__} in the headers of its files)."
        ) from error
    return {
        name: (stored.properties.dtype, stored.size, sum(chunk.sizes.numel() for chunk in stored.chunks))
        for name, stored in metadata.items()
        if isinstance(stored, TensorStorageMetadata)
    }


def _together(action: Callable[[], None], *, when: bool) -> None:
    """Do something on the ranks `when` says so; where one fails, all raise its error, so none waits."""
    failure: OSError | WeightsError | None = None
    try:
        if when:
            action()
    except (OSError, WeightsError) as error:
        failure = error
    if (world := current_share().world) > 1:
        failures: list[Any] = [None] * world
        dist.all_gather_object(failures, failure)
        failure = next((other for other in failures if other is not None), None)
    if failure is not None:
        raise failure


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)  # left by a process that was killed
    folder.mkdir(parents=True)


def _complete(temporary: Path, path: Path, body: dict[str, Any]) -> None:
    """Write the manifest, rename the folder and remove what it replaces."""
    with written_whole(temporary / MANIFEST) as page:
        page.write_text(json.dumps(body | {"checksum": _text_checksum(body)}))
    if path.exists():
        shutil.rmtree(path)
    temporary.replace(path)
    sync_names(path.parent)
    found = _found(path.parent)
    later = [other for other in found if _step(other) > _step(path)]
    unfinished = [*path.parent.glob("checkpoint-*.part")]  # of killed processes
    for old in later + found[len(later) + KEPT :] + unfinished:
        shutil.rmtree(old)


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number (from 1) of each tensor's file; files are filled in turn."""
    files, filled = {}, 0
    for name, tensor in tensors.items():
        files[name] = 1 + filled // FILE_BYTES
        filled += tensor.numel() * tensor.element_size()
    return files


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a write that failed, here or on another rank, into an OutputError."""
    from torch.distributed.checkpoint import CheckpointException

    try:
        yield
    except (OSError, CheckpointException) as error:
        failures = (
            [failed for failed, _ in error.failures.values()] if not isinstance(error, OSError) else [error]
        )
        reasons = [failed.strerror for failed in failures if isinstance(failed, OSError)]
        if len(reasons) < len(failures):  # not the disk: a process that is gone, or a mistake of ours
            raise RuntimeError(_first_line(error)) from error
        if current_share().rank == 0:
            shutil.rmtree(path.with_suffix(".part"), ignore_errors=True)
        raise OutputError(
            f"The checkpoint cannot be written to {path}: {reasons[0]}. Free space or choose --output."
        ) from error


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Without the warning that one process saves alone, which is what was requested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _first_line(error: BaseException) -> str:
    """Return the error of the first rank that failed, from torch's collection of failures."""
    failures = getattr(error, "failures", {})
    for failed, _ in failures.values():
        return getattr(failed, "strerror", None) or str(failed).splitlines()[0]
    return str(error).splitlines()[0]


def _read_single_file(path: Path) -> dict[str, Tensor]:
    """Return the averages of a checkpoint of an earlier version, which torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise WeightsError(f"{path} is damaged (checksum of {bad}).")
        average = torch.load(path, map_location="cpu", weights_only=True)["average"]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, zlib.error) as error:
        raise WeightsError(f"{path} is damaged ({type(error).__name__}).") from error
    except (UnpicklingError, RuntimeError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(f"{path} is not a checkpoint of a training run.") from error
    rows = average.items() if isinstance(average, dict) else ()
    plain = [isinstance(name, str) and isinstance(one, Tensor) and not one.is_sparse for name, one in rows]
    if not plain or not all(plain) or not all(one.isfinite().all() for _, one in rows):
        raise WeightsError(f"{path} is not a checkpoint of a training run.")
    return average
