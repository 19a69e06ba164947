"""Read an adapter's file: checked on its header against a model's sizes, then read as tensors.

Only safetensors are read, never pickles. The scale is told by the header (`lora_adapter_metadata`, as
diffusers and peft write it) or by peft's adapter_config.json beside the file; tensors tell all else. Every
tensor has a place in the model, or belongs to another network, which is told; otherwise the file is refused.
Shapes: K in, r rank, n rows of a product's outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanakit.adapters.adapter import Adapter, AdapterPart
from sanakit.adapters.names import (
    ALPHA,
    DOWN,
    MAGNITUDE,
    UP,
    Place,
    Sorted,
    family,
    other_kind,
    sort_names,
    spellings,
    split_field,
)
from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.models.sana import (
    SANA_1_5_4800M,
    SANA_600M,
    SANA_1600M,
    SANA_SPRINT_600M,
    SANA_SPRINT_1600M,
    SanaConfig,
)
from sanakit.weights.layouts.fill import FLOATS
from sanakit.weights.layouts.released import size_name
from sanakit.weights.read.disk import AGAIN, read_json
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.header import TensorInfo, read_texts

DIFFUSERS_FILE, PEFT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"  # beside PEFT_FILE
HEADER_KEY = "lora_adapter_metadata"
# Released sizes whose products differ; 1.5 has those of the first model.
RELEASED = (SANA_600M, SANA_1600M, SANA_1_5_4800M, SANA_SPRINT_600M, SANA_SPRINT_1600M)
NAMED = 4  # tensors that an error message quotes
MAX_RANK = 4096


class AdapterFile:
    """An adapter's file, opened and recognised; its tensors are read by `read`.

    path: a .safetensors file, or a folder of diffusers or peft with one.
    Raises ModelNotFoundError, or WeightsError for a damaged file or for what is not a LoRA.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _file(Path(path).expanduser(), os.fspath(path))
        self.files = TensorFiles([self.path])
        self.config = _config(self.path)
        names = list(self.files.infos)
        if kind := other_kind(names):
            raise WeightsError(
                f"{self.path} is an adapter of another kind ({kind}); LoRA and DoRA are read. Train or "
                "export it as a LoRA, or merge it into its model with the tool that made it."
            )
        if not any(split_field(name)[1] in (DOWN, UP) for name in names):
            raise WeightsError(
                f"{self.path} is not a LoRA: it holds {', '.join(names[:NAMED]) or 'no tensors'}. Use the "
                "file of an adapter; a whole model is chosen as the model."
            )

    @cached_property
    def fingerprint(self) -> str:
        """The hash of its tensors and of the settings that its scales come from."""
        settings = json.dumps(self.config, sort_keys=True, default=str)
        return hashlib.sha256(f"{self.files.digest(exact=True)} {settings}".encode()).hexdigest()

    def fits(self, config: SanaConfig) -> bool:
        """Return whether names and shapes of all tensors have their place in a model of these sizes."""
        found = sort_names(self.files.infos, spellings(config))
        if found.unknown or not found.fields:
            return False
        for place, names in found.fields.items():
            down, up = (
                _matrix(self.files.infos[names[kind]]) if kind in names else () for kind in (DOWN, UP)
            )
            if not down or not up or (down[1], up[0]) != (place.inputs, place.stop - place.start):
                return False
        return not self._covered(found, config)

    def check(self, config: SanaConfig) -> Sorted:
        """Return the places of its tensors in a model, by the header alone. Raises WeightsError."""
        found = sort_names(self.files.infos, spellings(config))
        if found.unknown or not found.fields:
            raise WeightsError(self._misfit(found, config))
        if found.twice:
            raise WeightsError(f"{self.path} holds two tensors for one place: {_few(found.twice)}. {AGAIN}")
        counts = Counter(place.module for place in found.fields)
        whole = [place.module for place in found.fields if found.spelled[place] == place.module]
        if twice := [module for module in whole if counts[module] > 1]:
            raise WeightsError(f"{self.path} changes {_few(twice)} twice, as a whole and in parts. {AGAIN}")
        for place, names in found.fields.items():
            self._check_part(place, names, config)
        return found

    def read(self, config: SanaConfig) -> Adapter:
        """Return its tensors, in copies, for a model of these sizes. Raises WeightsError."""
        found = self.check(config)
        parts = tuple(self._part(place, names, found.spelled[place]) for place, names in found.fields.items())
        return Adapter(
            parts=parts,
            file=self.path.name,
            fingerprint=self.fingerprint,
            notes=(*self._told(found), *self._covered(found, config)),
        )

    def _part(self, place: Place, names: Mapping[str, str], spelled: str) -> AdapterPart:
        down, up = (self._tensor(names[kind]).flatten(1) for kind in (DOWN, UP))
        alpha = _alpha(self.config, spelled, len(down))
        if ALPHA in names:
            alpha = float(self._tensor(names[ALPHA]))
        magnitude = self._tensor(names[MAGNITUDE]).flatten() if MAGNITUDE in names else None
        stabilised = self.config.get("use_rslora") is True
        return AdapterPart(
            place=place, down=down, up=up, alpha=alpha, stabilised=stabilised, magnitude=magnitude
        )

    def _tensor(self, name: str) -> Tensor:
        """Return a tensor in memory of its own. Raises WeightsError unless its values are finite."""
        tensor: Tensor = self.files.read(name).clone()
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{self.path}: {name} holds NaN or infinity: the training failed. {AGAIN}")
        return tensor

    def _check_part(self, place: Place, names: Mapping[str, str], config: SanaConfig) -> None:
        """Raise WeightsError unless one place has all tensors that it needs, of fitting shapes."""
        if DOWN not in names or UP not in names:
            has = next(iter(names.values()))
            raise WeightsError(
                f"{self.path} holds {has} without its partner: a LoRA has two matrices (lora_A and lora_B, "
                f"or lora_down and lora_up) for each layer. {AGAIN}"
            )
        infos = {kind: self.files.infos[name] for kind, name in names.items()}
        down, up = _matrix(infos[DOWN]), _matrix(infos[UP])
        rows = place.stop - place.start
        if not down or not up or down[1] != place.inputs or up[0] != rows:
            came = f"{infos[DOWN].shape} and {infos[UP].shape}"
            raise WeightsError(
                f"{self.path} does not fit this model: {names[DOWN]} and its partner have the shapes {came}, "
                f"and {place.module} needs (rank, {place.inputs}) and ({rows}, rank).{self._seems(config)}"
            )
        if down[0] != up[1] or not 1 <= down[0] <= MAX_RANK:
            raise WeightsError(
                f"{self.path}: {names[DOWN]} has the rank {down[0]} and its partner {up[1]}; both must have "
                f"the same, from 1 to {MAX_RANK}. {AGAIN}"
            )
        if ALPHA in infos and infos[ALPHA].size != 1:
            raise WeightsError(f"{self.path}: {names[ALPHA]} is not one number. {AGAIN}")
        if MAGNITUDE in infos and not _of_rows(infos[MAGNITUDE].shape, rows):
            raise WeightsError(
                f"{self.path}: {names[MAGNITUDE]} has the shape {infos[MAGNITUDE].shape}; a DoRA needs one "
                f"magnitude for each of {rows} outputs here. One for each input, as early LyCORIS had it, is "
                "not read: export it again."
            )
        if MAGNITUDE not in infos and self.config.get("use_dora") is True:
            raise WeightsError(
                f"{self.path} is a DoRA by its settings, but {place.module} has no magnitude. {AGAIN}"
            )
        for kind, info in infos.items():
            if info.dtype not in FLOATS and kind != ALPHA:
                raise WeightsError(
                    f"{self.path}: {names[kind]} is stored as {info.dtype}: it was quantised by another "
                    "tool. Use the original adapter."
                )

    def _misfit(self, found: Sorted, config: SanaConfig) -> str:
        """Return why tensors have no place in a model: what fits, what does not, and what it may be for."""
        fits = sum(map(len, found.fields.values()))
        if not found.unknown:  # of other networks alone
            return f"{self.path} changes nothing in the transformer: {'; '.join(self._told(found))}"
        return (
            f"{self.path} does not fit this model: {fits} of its {len(self.files.infos)} tensors have a "
            f"place in it ({config.depth} blocks of width {config.width}), {len(found.unknown)} have none: "
            f"{_few(found.unknown)}.{self._seems(config)}"
        )

    def _seems(self, config: SanaConfig) -> str:
        """Return for which models a file is that does not fit one, as a sentence, or what to look for."""
        if sizes := [one for one in self.released() if one != size_name(config)]:
            return f" It fits {' and '.join(sizes)}: use it with that model."
        found = sort_names(self.files.infos, spellings(RELEASED[2]))  # of the most blocks
        other = family(found.unknown) if found.unknown else ""
        seems = f"to be for {other}" if other else "to be for another model"
        if not found.unknown:
            seems = "to be for a SANA model of another size"
        return f" It seems {seems}: an adapter only works with the model that it was trained on."

    def released(self) -> list[str]:
        """Return the names of the released sizes that it fits."""
        return [size_name(config) for config in RELEASED if self.fits(config)]

    def _told(self, found: Sorted) -> list[str]:
        return [
            f"{self.path}: {count} of its tensors are of {why}." for why, count in found.elsewhere.items()
        ]

    def _covered(self, found: Sorted, config: SanaConfig) -> list[str]:
        """Return a note on a file that covers exactly the blocks of a smaller model of the same width."""
        blocks = {int(m[1]) for place in found.fields if (m := re.match(r"blocks\.(\d+)\.", place.module))}
        smaller = {one.depth for one in RELEASED if one.width == config.width and one.depth < config.depth}
        if not blocks or max(blocks) + 1 not in smaller or blocks != set(range(max(blocks) + 1)):
            return []
        return [
            f"{self.path} changes the first {len(blocks)} of this model's {config.depth} blocks: it seems to "
            "be for a smaller model of the same width."
        ]


def _file(path: Path, asked: str) -> Path:
    """Return the file of an adapter that a path stands for. Raises ModelNotFoundError, WeightsError."""
    if os.path.isdir(path):
        for name in (DIFFUSERS_FILE, PEFT_FILE):
            if (path / name).is_file():
                return path / name
        raise WeightsError(
            f"{path} has neither {DIFFUSERS_FILE} nor {PEFT_FILE}: give the adapter's .safetensors file."
        )
    if not os.path.exists(path):
        raise ModelNotFoundError(f"No adapter lies at {asked!r}: give the path of its .safetensors file.")
    return path


def _config(path: Path) -> dict[str, Any]:
    """Return peft's settings of an adapter; {} where there are none. Raises WeightsError."""
    text, where = read_texts(path).get(HEADER_KEY), f"{path}: {HEADER_KEY} in its header"
    if text is None:
        beside = path.with_name(PEFT_CONFIG)
        if path.name != PEFT_FILE or not beside.exists():
            return {}
        content, where = read_json(beside), str(beside)
    else:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise WeightsError(f"{where} is not JSON. {AGAIN}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{where} is not an object of settings. {AGAIN}")
    own = {key.removeprefix("transformer."): value for key, value in content.items()}
    own = {key: value for key, value in own.items() if "." not in key}  # else of another network
    kind = own.get("peft_type", "LORA")
    if kind not in ("LORA", None):
        raise WeightsError(f"{path} is an adapter of another kind ({kind}); LoRA and DoRA are read.")
    patterns = own.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise WeightsError(f"{where}: alpha_pattern is not an object of numbers. {AGAIN}")
    for value in (own.get("lora_alpha", 1), *patterns.values()):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
            raise WeightsError(f"{where} has the alpha {value!r}; it must be a number. {AGAIN}")
    if strange := [name for name in patterns if not re.fullmatch(r"[\w.]+", name)]:
        raise WeightsError(
            f"{where}: alpha_pattern has {_few(strange)}; only names of modules are read there, no patterns: "
            "save the adapter with an alpha for each layer."
        )
    return own


def _alpha(config: Mapping[str, Any], spelled: str, rank: int) -> float:
    """Return a layer's alpha by peft's settings: its own, else that of all, else the rank."""
    for name, value in (config.get("alpha_pattern") or {}).items():
        if spelled == name or spelled.endswith(f".{name}"):
            return float(value)
    return float(config.get("lora_alpha", rank))


def _matrix(info: TensorInfo) -> tuple[int, ...]:
    """Return the two sides of a matrix, or of a 1x1 convolution; () for any other shape."""
    shape = info.shape
    return shape[:2] if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)) else ()


def _of_rows(shape: tuple[int, ...], rows: int) -> bool:
    """Return whether a magnitude is one for each output: n, n 1, n 1 1 1, or 1 n 1 1."""
    return shape in ((rows,), (rows, 1), (rows, 1, 1, 1), (1, rows, 1, 1))


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
