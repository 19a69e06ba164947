"""Weight files as names, shapes and dtypes first and tensors on demand; nothing here knows a model.

safetensors: the header is read and checked here, the data stay on disk, memory-mapped (`mapping`). .pth:
torch's restricted unpickler (`weights_only=True`), memory-mapped; code inside a file is never run.
Source: safetensors format (8 bytes length, JSON header, data); torch.save zip files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sanakit.errors import WeightsError

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_SAFETENSORS_NAMES = {ours: theirs for theirs, ours in DTYPES.items()}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}  # of an element; others: 1
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save, bare pickle
AGAIN = "Download or export it again."
WEIGHT_NAME = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)"
    r"(?:\.(?P<variant>fp16|bf16))?(?:-(?P<shard>\d{5})-of-(?P<count>\d{5}))?(?:\.(?P<old_variant>fp16|bf16))?\.safetensors"
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A header's entry for one tensor."""

    shape: tuple[int, ...]
    dtype: str  # as torch spells it: "float16"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class TensorFiles:
    """The tensors of one checkpoint (one file, or the shards of one): `infos` now, data by `read`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the headers of safetensors files. Raises WeightsError when one is damaged or something
        else."""
        self.paths = tuple(paths)
        self.metadata: dict[str, Any] = {}
        self._spans: dict[str, tuple[Path, int, int]] = {}  # file, first byte, byte after the last
        self._mappings: dict[Path, Any] = {}
        self.infos: dict[str, TensorInfo] = {}
        for path in self.paths:
            for name, (info, start, end) in _read_header(path).items():
                if name in self.infos:
                    raise WeightsError(
                        f"{path}: the tensor {name!r} is also in {self._spans[name][0].name}. {AGAIN}"
                    )
                self.infos[name] = info
                self._spans[name] = (path, start, end)

    def read(self, name: str) -> Any:
        """Return the tensor as stored, on the CPU, backed by the file (no copy; see `mapping`)."""
        path, start, _ = self._spans[name]
        return self._tensor(path, start, self.infos[name])

    def read_stacked(self, names: Sequence[str]) -> Any:
        """Return several tensors, put one below the other, as one backed by the file; None where they do not
        follow each other in one file, or differ in dtype."""
        spans = [self._spans[name] for name in names if name in self._spans]
        infos = [self.infos[name] for name in names]
        follow = all(before[::2] == after[:2] for before, after in pairwise(spans))
        if len(spans) < len(names) or not follow or len({info.dtype for info in infos}) > 1:
            return None
        shape = (sum(info.shape[0] for info in infos), *infos[0].shape[1:])
        return self._tensor(*spans[0][:2], TensorInfo(shape, infos[0].dtype))

    def fingerprint(self) -> str:
        """Tell these weights from any others, in hexadecimal, without reading them whole.

        Taken over the headers, the files' sizes and times of change, and the first and middle 4 KB of every
        tensor: training changes practically every row of a matrix, and what changes a few bytes only also
        changes the time. A copy of the files may get another fingerprint; other weights never the same one.
        """
        digest = hashlib.sha256()
        for path in self.paths:
            stat = path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns} ".encode())
            with path.open("rb", buffering=0) as file:
                digest.update(file.read(struct.unpack("<Q", file.read(8))[0]))
                for place, start, end in self._spans.values():
                    for byte in (start, (start + end) // 2) if place == path else ():
                        file.seek(byte)
                        digest.update(file.read(min(4096, end - byte)))
        return digest.hexdigest()

    @property
    def dtype(self) -> str:
        """The dtype that most elements are stored in."""
        sizes: dict[str, int] = {}
        for info in self.infos.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
        return max(sizes, key=lambda dtype: sizes[dtype], default="float32")

    def _tensor(self, path: Path, start: int, info: TensorInfo) -> Any:
        import torch

        from sanakit.weights.read.mapping import map_file, mapped_tensor

        try:
            if path not in self._mappings:
                self._mappings[path] = map_file(path)
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error}). {AGAIN}") from None
        return mapped_tensor(self._mappings[path], getattr(torch, info.dtype), info.shape, start)

    def without_prefix(self, prefix: str) -> dict[str, str]:
        """Map names less `prefix` (where they have it) to the names in the file."""
        return {name.removeprefix(prefix): name for name in self.infos}


class PickledTensors(TensorFiles):
    """The same for a .pth file, whose tensors are memory-mapped by torch."""

    def __init__(self, path: Path) -> None:
        """Open the file without running anything in it; `state_dict`, `module` and `model` are looked
        into."""
        content = _unpickle(path)
        self.paths = (path,)
        self.metadata = content if isinstance(content, dict) else {}
        self._tensors = _state_dict(content, path)
        self._spans = {}
        self.infos = {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Any:
        """Return the tensor as stored, on the CPU, backed by the file (no copy)."""
        return self._tensors[name]


def open_file(path: Path) -> TensorFiles:
    """Open a .safetensors or .pth file; a pickle that calls itself safetensors is not opened.

    Raises WeightsError with the remedy when it is empty, truncated, text, a web page, or no weight file.
    """
    start = _first_bytes(path)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return TensorFiles([path])
    if start.startswith(PICKLES):
        return PickledTensors(path)
    raise WeightsError(f"{path} is {_looks_like(start)}, not a weight file (.safetensors or .pth). {AGAIN}")


def open_component(folder: Path, variant: str | None = None) -> TensorFiles:
    """Open the weights of one part of a diffusers folder (`transformer/`, `vae/`, `text_encoder/`).

    variant: which of fp16 / bf16 to prefer where the folder holds several. Raises WeightsError.
    """
    return TensorFiles(component_files(folder, variant))


def component_files(folder: Path, variant: str | None = None) -> list[Path]:
    """List the safetensors of one part of a folder, all shards of one variant."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        raise WeightsError(
            f"{folder} is missing or not readable: the model's folder is incomplete. {AGAIN}"
        ) from None
    chosen = select_weights(names, variant)
    if not chosen:
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles:
            raise WeightsError(
                f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when opened: "
                "download the .safetensors files of the same repository, or convert them with their own tool."
            )
        raise WeightsError(f"{folder} holds no .safetensors file: the model's folder is incomplete. {AGAIN}")
    for name in _indexed_files(folder, names, chosen):
        if name not in names:
            raise WeightsError(f"{folder / name} is missing: the checkpoint's index asks for it. {AGAIN}")
    return [folder / name for name in chosen]


def select_weights(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Choose, among the file names of one part, those that make one checkpoint.

    The requested variant is preferred, then files without a variant, then the only variant there is.
    Raises WeightsError when shards of the chosen set are missing; returns [] when there is no safetensors
    file.
    >>> select_weights(["config.json", "model.fp16.safetensors", "model.safetensors"], "fp16")
    ['model.fp16.safetensors']
    """
    sets: dict[tuple[str | None, int], list[str]] = {}
    for name in sorted(names):
        if match := WEIGHT_NAME.fullmatch(name):
            tag = match["variant"] or match["old_variant"]
            sets.setdefault((tag, int(match["count"] or 1)), []).append(name)
    for tag in (variant, None, "bf16", "fp16"):
        for (found, count), members in sorted(sets.items(), key=lambda item: item[0][1]):
            if found == tag:
                if len(members) != count:
                    raise WeightsError(
                        f"{len(members)} of the {count} shards like {members[0]} are there. {AGAIN}"
                    )
                return members
    return []


def write_safetensors(
    path: Path, tensors: Mapping[str, Any], dtype: Any, as_they_are: Iterable[str] = ()
) -> None:
    """Write tensors as one safetensors file, floats in `dtype`; one tensor at a time, so no second copy
    arises. as_they_are: names of those that keep their own dtype, as quantised ones must.

    Raises OSError when the place cannot be written or the disk is full.
    """
    import torch

    kept = set(as_they_are)
    stored = {
        name: dtype if tensor.is_floating_point() and name not in kept else tensor.dtype
        for name, tensor in tensors.items()
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * stored[name].itemsize
        kind = _SAFETENSORS_NAMES[str(stored[name]).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # tensors begin on cache lines, also when mapped
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            whole = tensor.detach().to("cpu", stored[name]).contiguous()
            file.write(whole.reshape(-1).view(torch.uint8).numpy().data)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model's folder. Raises WeightsError when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise WeightsError(
            f"{path} is missing or not readable: the model's folder is incomplete. {AGAIN}"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error}). {AGAIN}") from None
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a JSON {type(content).__name__} where an object is expected. {AGAIN}"
        )
    return content


def _indexed_files(folder: Path, names: list[str], chosen: list[str]) -> set[str]:
    """Return the file names in the chosen checkpoint's index, if it has one."""
    match = WEIGHT_NAME.fullmatch(chosen[0])
    if match is None or len(chosen) == 1:
        return set()
    tag = match["variant"] or match["old_variant"]
    stem = match["stem"]
    spellings = [f"{stem}.safetensors.index.json"]
    if tag:
        spellings = [f"{stem}.safetensors.index.{tag}.json", f"{stem}.{tag}.safetensors.index.json"]
    for spelling in spellings:
        if spelling in names:
            weight_map = read_json(folder / spelling).get("weight_map")
            if not isinstance(weight_map, dict):
                raise WeightsError(f"{folder / spelling} has no weight_map. {AGAIN}")
            return {str(name) for name in weight_map.values()}
    return set()


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions."
        ) from None
    if not start:
        raise WeightsError(f"{path} is empty (0 bytes): the download or copy did not finish. {AGAIN}")
    return start


def _looks_like(start: bytes) -> str:
    if start.lstrip()[:1] == b"<":
        return "a web page (often a log-in or error page saved in place of the file)"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights it stands for (run `git lfs pull`)"
    if start.startswith(PICKLES):
        return "a pickle (.pth), which can run code when opened"
    printable = start.decode("utf-8", errors="ignore").translate({9: " ", 10: " ", 13: " "}).isprintable()
    return "a text file" if printable else "in no known format"


def _read_header(path: Path) -> dict[str, tuple[TensorInfo, int, int]]:
    """Names, shapes, dtypes and bytes (from, to) of a safetensors file's tensors, checked against its
    size."""
    start = _first_bytes(path)
    size = path.stat().st_size
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if start[8:9] != b"{" or length < 2:
        raise WeightsError(f"{path} is {_looks_like(start)}, not safetensors. {AGAIN}")
    begin = 8 + length
    if begin > size:
        raise WeightsError(
            f"{path} is truncated: its header alone needs {begin:,} bytes, it has {size:,}. {AGAIN}"
        )
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {name: _read_entry(entry, begin) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError):
        raise WeightsError(f"{path} has a damaged safetensors header. {AGAIN}") from None
    needed = max((end for _, _, end in tensors.values()), default=begin)
    if needed != size:
        state = "truncated" if size < needed else "longer than its header says"
        raise WeightsError(f"{path} is {state}: {size:,} bytes, the header asks for {needed:,}. {AGAIN}")
    return tensors


def _read_entry(entry: dict[str, Any], begin: int) -> tuple[TensorInfo, int, int]:
    """Return a header's tensor, with data from byte `begin`; ValueError if its bytes and shape differ."""
    kind = str(entry["dtype"])
    info = TensorInfo(tuple(int(side) for side in entry["shape"]), DTYPES.get(kind, kind))
    start, end = (int(offset) for offset in entry["data_offsets"])
    wrong = kind in DTYPES and end - start != info.size * _BYTES.get(kind, 1)
    if not 0 <= start <= end or wrong or min(info.shape, default=0) < 0:
        raise ValueError(f"{info} in bytes {start} to {end}")
    return info, begin + start, begin + end


def _unpickle(path: Path) -> Any:
    import pickle

    import torch

    zipped = _first_bytes(path).startswith(b"PK\x03\x04")
    if zipped and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is truncated: the end of the file is missing. {AGAIN}")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols: an error follows anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} is a pickle that holds more than tensors, and could run code when opened; none "
            "was run. Ask its author for a .safetensors file, or a .pth with a plain state_dict."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is damaged or not written by torch.save ({reason}). {AGAIN}") from None


def _state_dict(content: Any, path: Path) -> dict[str, Any]:
    """Return the tensors of an unpickled file, which may nest under `state_dict`, `module` or `model`."""
    import torch

    for key in ("state_dict", "module", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a state_dict of named tensors. {AGAIN}"
        )
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path} holds {len(others)} entries that are not tensors (first: {str(others[0])!r}): not a "
            "state_dict. Use the checkpoint of a model."
        )
    return {str(name): value for name, value in content.items()}
