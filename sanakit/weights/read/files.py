"""Weight files as names, shapes and dtypes first and tensors on demand; nothing here knows a model.

safetensors: the header is read and checked (`header`), the data stay on disk, memory-mapped (`mapping`).
.pth: torch's restricted unpickler (`pickled`), memory-mapped; code inside a file is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from sanakit.errors import WeightsError
from sanakit.weights.read.component import choose_files
from sanakit.weights.read.digest import spans
from sanakit.weights.read.disk import AGAIN, PICKLES, first_bytes, looks_like
from sanakit.weights.read.header import TensorInfo, read_header
from sanakit.weights.read.pickled import NESTS, state_dict, unpickle

_Named = TypeVar("_Named")

WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")  # suffixes that promise weights
TENSOR_SAMPLES = 3  # of 4 KB, where not every byte of a tensor is hashed


class TensorFiles:
    """The tensors of one checkpoint (one file, or the shards of one): `infos` now, data by `read`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the headers of safetensors files. Raises WeightsError when one is damaged or something
        else."""
        self.paths = tuple(paths)
        self.metadata: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()  # what the user should know about how they are taken
        self._spans: dict[str, tuple[Path, int, int]] = {}  # file, first byte, byte after the last
        self._mappings: dict[Path, Any] = {}
        self.infos: dict[str, TensorInfo] = {}
        for path in self.paths:
            for name, (info, start, end) in read_header(path).items():
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

    def digest(self, *, exact: bool = False) -> str:
        """Return a hash of names, dtypes, shapes and bytes, in hexadecimal: which tensors these are.

        exact: hash every byte; else the first, middle and last 4 KB of every tensor. Names, number and
        metadata of the files do not count. Raises WeightsError when a file cannot be read.
        """
        digest = hashlib.sha256()
        try:
            for name, info in sorted(self.infos.items()):
                digest.update(f"{name!r} {info.dtype} {info.shape} ".encode())
                for piece in self._pieces(name, None if exact else TENSOR_SAMPLES):
                    digest.update(piece)
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"{self.paths[0]} cannot be read whole ({error}). {AGAIN}") from None
        return digest.hexdigest()

    def leave_out(self, prefix: str) -> None:
        """Leave a prefix that all names begin with out of them, and tell it in `notes`."""
        self.infos = {name.removeprefix(prefix): info for name, info in self.infos.items()}
        self._spans = {name.removeprefix(prefix): span for name, span in self._spans.items()}
        where = self.paths[0]
        self.notes += (f"{where}: the names of all its tensors begin with {prefix!r}, which is left out.",)

    def keep(self, prefix: str) -> None:
        """Keep the tensors alone whose names begin with a prefix, less that, and tell of it in `notes`."""
        others = len(self.infos)
        self.infos = _within(self.infos, prefix)
        self._spans = _within(self._spans, prefix)
        others -= len(self.infos)
        beside = f" It holds {others} others, which are not used." if others else ""
        self.notes += (f"{self.paths[0]}: the tensors named {prefix!r}... are taken.{beside}",)

    @property
    def dtype(self) -> str:
        """The dtype that most elements are stored in."""
        sizes: dict[str, int] = {}
        for info in self.infos.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
        return max(sizes, key=lambda dtype: sizes[dtype], default="float32")

    def _pieces(self, name: str, samples: int | None) -> Iterator[bytes]:
        """Yield the bytes of a tensor, all or samples; see `spans`."""
        path, first, last = self._spans[name]
        with path.open("rb", buffering=0) as file:
            for start, end in spans(last - first, samples):
                file.seek(first + start)
                yield file.read(end - start)

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
        """Open the file without running anything in it; what nests it (`pickled.NESTS`) is looked into."""
        content = unpickle(path)
        self.paths = (path,)
        self.metadata = content if isinstance(content, dict) else {}
        self.notes = ()
        if beside := [str(key) for key in self.metadata if NESTS[0] in self.metadata and key != NESTS[0]]:
            self.notes = (f"{path} holds {', '.join(beside)} beside its {NESTS[0]}, which alone is used.",)
        self._tensors = state_dict(content, path)
        self._spans = {}
        self.infos = {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Any:
        """Return the tensor as stored, on the CPU, backed by the file (no copy)."""
        return self._tensors[name]

    def leave_out(self, prefix: str) -> None:
        """Leave a prefix that all names begin with out of them, and tell it in `notes`."""
        super().leave_out(prefix)
        self._tensors = {name.removeprefix(prefix): tensor for name, tensor in self._tensors.items()}

    def keep(self, prefix: str) -> None:
        """Keep the tensors alone whose names begin with a prefix, less that, and tell of it in `notes`."""
        super().keep(prefix)
        self._tensors = _within(self._tensors, prefix)

    def _pieces(self, name: str, samples: int | None) -> Iterator[bytes]:
        import torch

        tensor = self._tensors[name].detach()
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise RuntimeError(f"{name} repeats stored numbers")  # copying it out could take any memory
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start, end in spans(len(raw), samples):
            yield raw[start:end]


def open_file(path: Path) -> TensorFiles:
    """Open a .safetensors or .pth file; a pickle that calls itself safetensors is not opened.

    Raises WeightsError with the remedy when it is empty, truncated, text, a web page, or no weight file.
    """
    start = first_bytes(path)
    if path.suffix.lower() == ".safetensors" or start[8:9] == b"{":
        return TensorFiles([path])
    if start.startswith(PICKLES):
        return PickledTensors(path)
    remedy = AGAIN if path.suffix.lower() in WEIGHTS else "Use a model's folder or weight file."
    raise WeightsError(f"{path} is {looks_like(start)}, not a weight file (.safetensors or .pth). {remedy}")


def open_component(folder: Path, variant: str | None = None) -> TensorFiles:
    """Open the weights of one part of a diffusers folder (`transformer/`, `vae/`, `text_encoder/`).

    variant: which of fp16 / bf16 to prefer where the folder holds several. Another complete checkpoint beside
    it, of the same variant but with other weights, is told in `notes`. Raises WeightsError.
    """
    choice = choose_files(folder, variant)
    files = TensorFiles(folder / name for name in choice.files)
    for other in choice.others:
        if not _hold_the_same(files, [folder / name for name in other]):
            files.notes += (
                f"{folder} holds two checkpoints with different weights: {choice.files[0]} is used, "
                f"{other[0]} is not. Remove the files of the wrong one.",
            )
    return files


def _hold_the_same(files: TensorFiles, paths: list[Path]) -> bool:
    try:
        return TensorFiles(paths).digest() == files.digest()
    except WeightsError:
        return False


def _within(named: Mapping[str, _Named], prefix: str) -> dict[str, _Named]:
    return {name.removeprefix(prefix): one for name, one in named.items() if name.startswith(prefix)}
