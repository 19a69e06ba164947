"""Describe an adapter's file: `sana inspect FILE`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sanakit.adapters.adapter import Adapter
from sanakit.adapters.names import DOWN, MAGNITUDE, family, other_kind, split_field
from sanakit.adapters.read import DIFFUSERS_FILE, PEFT_FILE, RELEASED, AdapterFile
from sanakit.errors import WeightsError
from sanakit.models.sana import SanaConfig
from sanakit.weights.find.catalog import CATALOG
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.parts import transformer_config
from sanakit.weights.layouts.released import size_name
from sanakit.weights.read.files import TensorFiles

_BLOCK = re.compile(r"(?:.*[._])?blocks[._]\d+[._]")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterDescription:
    """The content of an adapter's file, and the known models that it draws with."""

    path: str
    kind: str  # LoRA | DoRA
    layout: str  # of its names: diffusers | official | both | "" where it fits no known model
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]  # () where it fits no known model
    scales: tuple[float, ...]
    targets: Mapping[str, int]  # a layer's name within its block -> how many blocks have it
    parameters: int
    dtype: str
    bytes: int  # on the disk
    fits: tuple[str, ...]  # names of known models and sizes
    fingerprint: str
    notes: tuple[str, ...] = ()


def describe_adapter(path: str | os.PathLike[str]) -> AdapterDescription | None:
    """Return what an adapter's file holds; None for what does not look like an adapter.

    path: a .safetensors file, or a folder of diffusers or peft with one. Raises WeightsError for a damaged
    file and for an adapter of a kind that is not read.
    """
    place = Path(path).expanduser()
    if not _looks_like_one(place):
        return None
    file = AdapterFile(place)
    known = known_models()
    fits = tuple(name for name, config in known.items() if file.fits(config))
    infos = file.files.infos
    downs = [name for name in infos if split_field(name)[1] == DOWN]
    adapter, layout, modules = Adapter(parts=()), "", [split_field(name)[0] for name in downs]
    if fits:
        config = known[fits[0]]
        adapter, found = file.read(config), file.check(config)
        layout = "both" if len(found.layouts) > 1 else found.layouts.pop()
        modules = list(found.spelled.values())
    dora = any(split_field(name)[1] == MAGNITUDE for name in infos)
    other = "" if fits else family(infos)
    return AdapterDescription(
        path=str(file.path),
        kind="DoRA" if dora else "LoRA",
        layout=layout,
        ranks=tuple(sorted({infos[name].shape[0] for name in downs if infos[name].shape})),
        alphas=tuple(sorted({part.alpha for part in adapter.parts})),
        scales=tuple(sorted({part.scale for part in adapter.parts})),
        targets=dict(Counter(_BLOCK.sub("", module) for module in modules)),
        parameters=sum(info.size for info in infos.values()),
        dtype=file.files.dtype,
        bytes=file.path.stat().st_size,
        fits=fits,
        fingerprint=file.fingerprint,
        notes=(*adapter.notes, *([f"It seems to be for {other}."] if other else [])),
    )


def known_models() -> dict[str, SanaConfig]:
    """Return the sizes of the embedded models and of the released ones, by name."""
    embedded = [entry.name for entry in CATALOG.values() if entry.repo is None and not entry.unsupported]
    found = {name: transformer_config(resolve(name, ("transformer",))) for name in embedded}
    return found | {size_name(config): config for config in RELEASED}


def _looks_like_one(place: Path) -> bool:
    if os.path.isdir(place):
        return any((place / name).is_file() for name in (DIFFUSERS_FILE, PEFT_FILE))
    if place.suffix.lower() != ".safetensors" or not os.path.isfile(place):
        return False
    try:
        names = TensorFiles([place]).infos
    except WeightsError:  # which describing it as a model tells
        return False
    return bool(other_kind(names)) or any(split_field(name)[1] for name in names)
