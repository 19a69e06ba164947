"""Weight files mapped into memory: pages are read when touched and can be released.

A mapping is private: writing to one of its tensors changes this process's copy, never the file. Pages that
were only read are the system's own copy of the file and may be dropped at any time; a written page exists
nowhere else. `release` keeps the two apart by torch's count of writes to a tensor.
Source: mmap(2), madvise(2).
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from sanakit.graphs.parts import Graph
from sanakit.models.contracts import ModelPart
from sanakit.ops.torch_private import writes_to

# Address of the first byte -> mapping. A mapping lives as long as a tensor in it, and no longer in here.
_MAPPINGS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
# Without it Linux refuses to map more than it has memory, as if all of it were going to be written.
# Python names the flag from 3.13 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file; nothing is read yet. Raises OSError (ValueError for an empty file)."""
    with path.open("rb") as file:
        if os.name == "nt":
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        else:
            flags = mmap.MAP_PRIVATE | _NO_RESERVE
            mapping = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    _MAPPINGS[torch.frombuffer(mapping, dtype=torch.uint8).data_ptr()] = mapping
    return mapping


def mapped_tensor(mapping: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> Tensor:
    """Return the tensor whose bytes begin at byte `start` of a mapping, without reading or copying them.

    Where the file has it at an odd address, which some writers do not avoid, it is copied.
    """
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(mapping, dtype=dtype, count=count, offset=start).view(shape)
    return tensor if tensor.data_ptr() % dtype.itemsize == 0 else tensor.clone()


def release(module: ModelPart) -> int:
    """Release the memory of a module's mapped weights to the system; the module works as before.

    The next use reads the pages from the file again, or finds them in the system's cache of it, which takes a
    few hundredths of a second per GB. Left alone are weights that are not mapped (those that loading
    converted, and those of a .pth file, which torch maps) and weights that were written to since, as training
    does, unless that went through `parameter.data`, which torch does not count. Returns the number of bytes
    that it let go, resident or not; 0 where the system cannot be told (Windows). Graphs are closed.
    """
    for graph in _graphs(module):
        graph.close()
    return release_tensors(chain(module.parameters(), module.buffers()))


def release_tensors(tensors: Iterable[Tensor]) -> int:
    """Do as `release` for single tensors."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return 0
    return sum(_drop(mapping, start, end) for mapping, start, end in _mapped(tensors))


def mapped_bytes(module: ModelPart) -> int:
    """Return the bytes of a module's weights that `release` can release."""
    mapped = sum(end - start for _, start, end in _mapped(chain(module.parameters(), module.buffers())))
    return mapped + sum(graph.bytes for graph in _graphs(module))


def _graphs(module: ModelPart) -> list[Graph]:
    return [part for part in module.modules() if isinstance(part, Graph)]


def _mapped(tensors: Iterable[Tensor]) -> Iterator[tuple[mmap.mmap, int, int]]:
    """Yield the mapping, first and last byte of those tensors that are as their file has them."""
    mappings = dict(_MAPPINGS)
    for tensor in tensors:
        if tensor.is_cpu and not tensor.is_inference() and writes_to(tensor) == 0 and tensor.is_contiguous():
            start, size = tensor.data_ptr(), tensor.nbytes
            for address, mapping in mappings.items():
                if address <= start and start + size <= address + len(mapping):
                    yield mapping, start - address, start - address + size
                    break


def _drop(mapping: mmap.mmap, start: int, end: int) -> int:
    """Let go the pages that lie wholly within bytes `start` to `end`: a neighbour may have written the
    others."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length <= 0:
        return 0
    mapping.madvise(mmap.MADV_DONTNEED, first, length)
    return length
