"""The content of a .pth file, by torch's restricted unpickler (`weights_only=True`): no code in it is run.

A small file could unfold to any size: that is bounded before it is opened. Source: torch.save zip files; the
older format is a row of pickles with the data behind them.
"""

from __future__ import annotations

import os
import pickletools
import struct
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from sanakit.errors import WeightsError
from sanakit.weights.read.disk import AGAIN, first_bytes, in_words

MAX_PICKLE = 8_000_000  # bytes; released models have below 1 MB. As objects they take thirty times as much
UNBOUNDED = ("builtins bytearray", "__builtin__ bytearray")  # a few bytes ask these for any amount of memory
NESTS = ("generator", "state_dict", "module", "model")  # the first: by LongSANA's trainer
BARE_PICKLES = 5  # before the data of the older format: magic number, protocol, system, content, keys


def unpickle(path: Path) -> Any:
    """Return the content of a .pth file, its tensors mapped to the file.

    Raises WeightsError when it is damaged, holds more than tensors, or would unfold to far more than it is.
    """
    import pickle

    import torch

    zipped = first_bytes(path).startswith(b"PK\x03\x04")
    if zipped and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is truncated: the end of the file is missing. {AGAIN}")
    try:
        if zipped:
            _check_archive(path)
        else:
            with path.open("rb") as file:
                _check_pickles(path, file.read(MAX_PICKLE + 1), BARE_PICKLES)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols: an error follows anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RecursionError):
        raise WeightsError(
            f"{path} is a pickle that holds more than tensors, and could run code when opened; none "
            "was run. Ask its author for a .safetensors file, or a .pth with a plain state_dict."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is damaged or not written by torch.save ({reason}). {AGAIN}") from None


def state_dict(content: Any, path: Path) -> dict[str, Any]:
    """Return the tensors of an unpickled file, which may nest under the keys of NESTS, one in another."""
    import torch

    for key in NESTS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {in_words(content)}, not a state_dict of named tensors. {AGAIN}")
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path} holds {len(others)} entries that are not tensors (first: {str(others[0])!r}): not a "
            "state_dict. Use the checkpoint of a model."
        )
    odd = [name for name, value in content.items() if not _is_plain(value)]
    if odd:
        raise WeightsError(
            f"{path} holds {len(odd)} tensors that are sparse, nested or quantised by torch (first: "
            f"{str(odd[0])!r}): save them as dense ones."
        )
    return {str(name): value for name, value in content.items()}


def _is_plain(tensor: Any) -> bool:
    import torch

    strange = tensor.is_quantized or tensor.is_nested or tensor.is_meta
    return not strange and tensor.layout == torch.strided


def _check_archive(path: Path) -> None:
    """Raise WeightsError for a zip file of which a small part could unfold to any size."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise WeightsError(
                    f"{path} holds {entry.filename} compressed, which torch.save never does; small files can "
                    "unfold to any size. Save it with torch.save, or get the .safetensors file."
                )
            if entry.filename.endswith(".pkl"):
                file.seek(entry.header_offset + 26)  # the lengths of name and extra field, then both
                file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
                _check_pickles(path, file.read(min(entry.file_size, MAX_PICKLE + 1)), 1)


def _check_pickles(path: Path, data: bytes, count: int) -> None:
    """Raise WeightsError when the first `count` pickles in the data are too long, or could be when opened.

    Raises ValueError for what is not a pickle.
    """
    stream = BytesIO(data)
    try:
        for _ in range(count):
            if stream.tell() == len(data):
                return
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL" and argument in UNBOUNDED:
                    raise WeightsError(
                        f"{path} holds a bytearray, which no weights need and which can take any amount of "
                        "memory. Ask its author for a .safetensors file."
                    )
    except ValueError:
        if len(data) <= MAX_PICKLE:
            raise
        raise WeightsError(
            f"{path} holds more than {MAX_PICKLE:,} bytes beside its tensors: not a model's weights. Use a "
            "file with a plain state_dict."
        ) from None
