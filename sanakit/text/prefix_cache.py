"""The instruction's keys and values in a file, so that a new process need not compute them again.

They are the same for every prompt: 206 tokens of the published instruction, 44 MB in float32 for Gemma 2 2B.
A CPU computes them in about ten seconds and reads them in a tenth of one. They are kept in float32, as
computed: values from the file equal the written ones bit for bit.

A file belongs to its weights: the key in it is a hash of their fingerprint, the model's config, the prefix's
tokens and FORMAT. There is one file a place and dialect; one that is foreign, outdated or damaged (a checksum
tells) is recomputed and replaced. No run fails because of it: files that cannot be read or written are
skipped.
Shapes: P tokens in the prefix, K key heads, E head size, D width.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sanakit.dialect import USUAL, Dialect
from sanakit.models.gemma2 import Gemma2Config, KVCache
from sanakit.whole import written_whole

FORMAT = 1  # raise it when the meaning of a file, or what `Gemma2` computes, changes
NAME = "instruction_cache"


class PrefixCache:
    """The file of the keys and values of one model's instruction.

    places: files to look in and to write to, the first that works. fingerprint: of the weights, as
    `weights.load` takes it.
    """

    def __init__(self, places: Iterable[Path], fingerprint: str) -> None:
        self.places = tuple(places)
        self.fingerprint = fingerprint

    def of(self, dialect: Dialect) -> PrefixCache:
        """Return the cache of a dialect's instruction: each has its own file, so none replaces another."""
        if dialect == USUAL:
            return self
        places = [place.with_stem(f"{place.stem}_{dialect}") for place in self.places]
        return PrefixCache(places, self.fingerprint)

    def load(self, config: Gemma2Config, prefix: Sequence[int]) -> tuple[Tensor, KVCache] | None:
        """Return the hidden state of token 0 (1 1 D) and the prefix's cache, or None if no file has them."""
        for place in self.places:
            with suppress(OSError, SafetensorError, ValueError, KeyError):
                if place.is_file():  # a named pipe of that name would be waited for
                    return _read(place, self._key(config, prefix), config.depth)
        return None

    def save(self, config: Gemma2Config, prefix: Sequence[int], first: Tensor, cache: KVCache) -> None:
        """Write them to the first place that can be written, whole or not at all."""
        tensors = {"first": first.contiguous()}
        for layer, (key, value) in enumerate(zip(cache.keys, cache.values, strict=True)):
            tensors |= {f"key.{layer}": key.contiguous(), f"value.{layer}": value.contiguous()}
        metadata = {
            "key": self._key(config, prefix),
            "length": str(cache.length),
            "checksum": str(_checksum(tensors.values())),
        }
        for place in self.places:
            with suppress(OSError, SafetensorError):
                place.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(place) as partial:
                    partial.write_bytes(save(tensors, metadata))
                return

    def _key(self, config: Gemma2Config, prefix: Sequence[int]) -> str:
        return hashlib.sha256(repr((FORMAT, self.fingerprint, config, tuple(prefix))).encode()).hexdigest()


def default_places(weights: Path) -> list[Path]:
    """Return the file's path: beside the weights, or, if not writable, in the user's cache directory.

    weights: the folder that holds them. The second file's name is of the folder's path: one file a model.
    """
    places = [weights / f"{NAME}.safetensors"]
    with suppress(OSError, RuntimeError):  # a user without a home directory
        name = hashlib.sha256(str(weights.resolve()).encode()).hexdigest()[:16]
        places.append(_user_cache() / f"{NAME}_{name}.safetensors")
    return places


def _user_cache() -> Path:
    home = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sanakit"


def _read(path: Path, key: str, depth: int) -> tuple[Tensor, KVCache]:
    """Read a file. Raises one of the errors that `load` suppresses if it is not there, foreign or damaged."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata["key"] != key:
            raise ValueError(f"{path} belongs to other weights")
        names = ["first", *(f"{kind}.{layer}" for layer in range(depth) for kind in ("key", "value"))]
        tensors = {name: file.get_tensor(name) for name in names}
    if _checksum(tensors.values()) != int(metadata["checksum"]):
        raise ValueError(f"{path} is damaged")
    cache = KVCache()
    cache.keys = [tensors[f"key.{layer}"] for layer in range(depth)]
    cache.values = [tensors[f"value.{layer}"] for layer in range(depth)]
    cache.length = int(metadata["length"])
    return tensors["first"], cache


def _checksum(tensors: Iterable[Tensor]) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value
