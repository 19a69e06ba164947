"""Which weights a model has, whatever it is called: for caches, ledgers and galleries.

A fingerprint is taken over tensors: names, dtypes, shapes and bytes. Names, places and number of their files
do not count. The settings of a folder (config.json, scheduler, sanakit.json) are not in it: record them
beside it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sanakit.errors import WeightsError
from sanakit.weights.find.resolve import INDEX, ModelSource, open_network, recognised, resolve
from sanakit.weights.read.component import component_files
from sanakit.weights.read.digest import file_digest
from sanakit.weights.read.disk import AGAIN, PICKLES, first_bytes
from sanakit.weights.read.files import TensorFiles

if TYPE_CHECKING:
    from torch import nn

SHOWN = 12  # digits of a hash after a model's name
SAMPLED, EXACT = "sampled", "exact"  # how a fingerprint was taken, its first word


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """Which weights a model has, as text: equal texts, equal weights.

    Each text is "sampled-" or "exact-" and 64 hexadecimal digits, so the two kinds are never equal.
    """

    whole: str
    parts: Mapping[str, str]  # transformer, vae, text_encoder, or the name of another folder -> its own

    def __str__(self) -> str:
        return self.whole


def fingerprint_weights(model: str | os.PathLike[str], *, exact: bool = False) -> Fingerprint:
    """Return which weights a model has.

    model: as for `load_transformer`; also a folder with config.json and safetensors of another network (a
    CLIP), or a single file of any kind. exact: read every byte, about a second a GB; else headers and samples
    of every tensor: training always changes those, a change of single bytes may not.
    The same weights give the same fingerprint wherever they lie, whole or in shards. Another dtype or
    layout is another fingerprint. Raises ModelNotFoundError or WeightsError.
    >>> fingerprint_weights("pocket") == fingerprint_weights("pocket")
    True
    """
    kind = EXACT if exact else SAMPLED
    parts = {name: f"{kind}-{digest}" for name, digest in _digests(resolve(model), exact)}
    return Fingerprint(
        whole=f"{kind}-{hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()}", parts=parts
    )


def first_digits(model: str | os.PathLike[str], part: str = "") -> str:
    """Return the first digits of a model's fingerprint, as images record it. Raises as that does.

    part: whose fingerprint is taken, if the model has such a part.
    """
    found = fingerprint_weights(model)
    return found.parts.get(part, found.whole).partition("-")[2][:SHOWN]


def other_weights(recorded: object, name: str, now: str) -> tuple[str, ...]:
    """Return what is told where an image was drawn by other weights than those that draw it again; else ().

    recorded, now: the first digits of fingerprints, the first one's perhaps fewer; "": not known, which is
    not told. name: of the model.
    """
    text = str(recorded or now)[:SHOWN]
    if not now or now.startswith(text):
        return ()
    return (
        f"These settings are of other weights (fingerprint {text}) than those of {name} here ({now}): "
        "another image is drawn.",
    )


def weights_sha256(module: nn.Module) -> str:
    """Return which weights a module in memory has: the SHA-256 of names, shapes and float32 values.

    Every value is read, one tensor at a time; a dtype that holds the same values gives the same.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


def told_apart(model: str | os.PathLike[str], *decides: str) -> str:
    """Return a model's name and a hash of what decides on its answers, such as a fingerprint of weights.

    The name is the last part of its path or repository, which models may share; without `decides` it is all.
    >>> told_apart("models/judge/", "sampled-00") == told_apart("judge", "sampled-00")
    True
    """
    name = os.fspath(model).rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    return name if not decides else f"{name}@{hashlib.sha256(repr(decides).encode()).hexdigest()[:SHOWN]}"


def _digests(source: ModelSource, exact: bool) -> Iterator[tuple[str, str]]:
    """Yield name and hash of each part of a model that has weights."""
    if source.is_file:
        yield _of_file(source.path, exact)
    elif not source.is_pipeline:
        yield _of_tensors(TensorFiles(component_files(source.path, source.variant)), exact)
    else:
        folders = {*source.path.iterdir(), source.folder("text_encoder")}  # the latter may be shared
        parts = sorted(path for path in folders if (path / "config.json").is_file())
        for part in parts:
            yield part.name, _of_part(part, source, exact)
        if not parts:
            raise WeightsError(f"{source.path} has {INDEX} but no part with weights. {AGAIN}")


def _of_part(folder: Path, source: ModelSource, exact: bool) -> str:
    if not source.runtime:
        return _of_tensors(TensorFiles(component_files(folder, source.variant)), exact)[1]
    graph = sorted(folder.glob("model.*"))
    return hashlib.sha256(" ".join(_of_bytes(path, exact) for path in graph).encode()).hexdigest()


def _of_file(path: Path, exact: bool) -> tuple[str, str]:
    start = first_bytes(path)
    if path.suffix.lower() == ".safetensors" or start[8:9] == b"{" or start.startswith(PICKLES):
        return _of_tensors(open_network(path)[0], exact)
    return "file", _of_bytes(path, exact)


def _of_tensors(files: TensorFiles, exact: bool) -> tuple[str, str]:
    kind, _ = recognised(files)
    return {"autoencoder": "vae"}.get(kind, kind), files.digest(exact=exact)


def _of_bytes(path: Path, exact: bool) -> str:
    try:
        return file_digest(path, exact=exact)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}). {AGAIN}") from None
