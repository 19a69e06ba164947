"""The safetensors format: 8 bytes of length, a JSON header, the data. Read strictly, and written.

A header is refused wherever the safetensors library refuses it: every byte of the data belongs to exactly one
tensor, a name stands once, sides and offsets are whole numbers.
Source: the format's specification (huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanakit.errors import WeightsError
from sanakit.weights.read.disk import AGAIN, first_bytes, looks_like

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
MAX_HEADER = 100_000_000  # bytes, the format's own limit
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A header's entry for one tensor."""

    shape: tuple[int, ...]
    dtype: str  # as torch spells it: "float16"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class _HeaderError(ValueError):
    """A header that the format forbids; the message is a clause that follows the file's name."""


def read_header(path: Path) -> dict[str, tuple[TensorInfo, int, int]]:
    """Return names, shapes, dtypes and bytes (from, to) of a safetensors file's tensors.

    Raises WeightsError naming the tensor and the reason where the format forbids the header.
    """
    return _read(path)[0]


def read_texts(path: Path) -> dict[str, str]:
    """Return the header's own texts, its `__metadata__`: facts beside tensors. Raises as `read_header`."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, tuple[TensorInfo, int, int]], dict[str, str]]:
    """Return a header's tensors and texts."""
    start = first_bytes(path)
    size = path.stat().st_size
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if start[8:9] != b"{" or length < 2:
        raise WeightsError(f"{path} is {looks_like(start)}, not safetensors. {AGAIN}")
    begin = 8 + length
    if begin > size:
        raise WeightsError(
            f"{path} is truncated: its header alone needs {begin:,} bytes, it has {size:,}. {AGAIN}"
        )
    try:
        if length > MAX_HEADER:
            raise _HeaderError(f"it has {length:,} bytes, and {MAX_HEADER:,} are allowed")
        with path.open("rb") as file:
            file.seek(8)
            text = file.read(length).decode("utf-8")
        header = json.loads(text, object_pairs_hook=_distinct)
        tensors = {
            name: _read_entry(name, entry, begin)
            for name, entry in header.items()
            if name != METADATA or not _is_metadata(entry)
        }
        _check_data(tensors, begin)
    except _HeaderError as error:
        raise WeightsError(f"{path} has a damaged safetensors header: {error}. {AGAIN}") from None
    except (ValueError, RecursionError, OSError):
        raise WeightsError(f"{path} has a damaged safetensors header: it is not JSON. {AGAIN}") from None
    needed = max((end for _, _, end in tensors.values()), default=begin)
    if needed != size:
        state = "truncated" if size < needed else "longer than its header says"
        raise WeightsError(f"{path} is {state}: {size:,} bytes, the header asks for {needed:,}. {AGAIN}")
    return tensors, header.get(METADATA, {})


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Any],
    dtype: Any,
    as_they_are: Iterable[str] = (),
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as one safetensors file, floats in `dtype`; one tensor at a time, so no second copy
    arises. as_they_are: names of those that keep their own dtype, as quantised ones must. texts: for the
    header, beside the format.

    Raises OSError when the place cannot be written or the disk is full.
    """
    import torch

    kept = set(as_they_are)
    stored = {
        name: dtype if tensor.is_floating_point() and name not in kept else tensor.dtype
        for name, tensor in tensors.items()
    }
    header: dict[str, Any] = {METADATA: {"format": "pt", **(texts or {})}}
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


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys differ; of equal ones, readers would not agree which counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _HeaderError(f"it names {_quoted(key)} twice")
        found[key] = value
    return found


def _is_metadata(entry: Any) -> bool:
    """Return True for the header's own texts. Raises _HeaderError for anything else in their place."""
    texts = entry.values() if isinstance(entry, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise _HeaderError(f"its {METADATA} is not an object of texts")
    return True


def _read_entry(name: str, entry: Any, begin: int) -> tuple[TensorInfo, int, int]:
    """Return a header's tensor, with data from byte `begin`. Raises _HeaderError for what is forbidden."""
    keys = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or not set(keys) <= set(entry):
        raise _HeaderError(f"the tensor {_quoted(name)} needs {', '.join(keys)}")
    kind, shape, offsets = (entry[key] for key in keys)
    if not isinstance(kind, str):
        raise _HeaderError(f"the tensor {_quoted(name)} has the dtype {_quoted(kind)}")
    if not _are_counts(shape):
        raise _HeaderError(f"the tensor {_quoted(name)} has the shape {_quoted(shape)}, not whole numbers")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"the tensor {_quoted(name)} lies in the bytes {_quoted(offsets)}")
    info = TensorInfo(tuple(shape), DTYPES.get(kind, kind))
    start, end = offsets
    if kind in DTYPES and end - start != info.size * _BYTES.get(kind, 1):
        raise _HeaderError(
            f"the tensor {_quoted(name)} has {end - start:,} bytes, its shape {list(shape)} in {kind} needs "
            f"{info.size * _BYTES.get(kind, 1):,}"
        )
    return info, begin + start, begin + end


def _check_data(tensors: Mapping[str, tuple[TensorInfo, int, int]], begin: int) -> None:
    """Raise _HeaderError unless the tensors follow each other without a gap or an overlap."""
    reached, before = begin, ""
    for name, (_, start, end) in sorted(tensors.items(), key=lambda item: item[1][1:]):
        if start < reached:
            raise _HeaderError(f"the tensors {_quoted(before)} and {_quoted(name)} overlap")
        if start > reached:
            raise _HeaderError(
                f"{start - reached:,} bytes before the tensor {_quoted(name)} belong to no tensor"
            )
        reached, before = end, name


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _quoted(value: Any) -> str:
    """Return a value of the header for a message, shortened: files of others may hold anything."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
