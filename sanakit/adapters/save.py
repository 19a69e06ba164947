"""Write an adapter in the layout of diffusers: any tool that reads SANA's LoRA reads it.

Fused queries, keys and values are written apart, which is exact: each has the same A and its own rows of B.
The header has peft's settings by the keys that all versions of it know.
Source: diffusers' `SanaPipeline.save_lora_weights`, peft's `LoraConfig`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanakit.adapters.adapter import Adapter, AdapterPart
from sanakit.adapters.names import diffusers_module, products
from sanakit.adapters.read import HEADER_KEY
from sanakit.errors import OutputError
from sanakit.models.sana import SanaConfig
from sanakit.weights.precision import parse_dtype
from sanakit.weights.read.header import write_safetensors
from sanakit.weights.save import exported

PREFIX = "transformer."
CONVOLUTIONS = ("conv_inverted", "conv_point", "patch_embed.proj")  # endings of diffusers' names of these


def save_adapter(
    path: str | os.PathLike[str],
    adapter: Adapter,
    config: SanaConfig,
    *,
    dtype: torch.dtype | str = torch.bfloat16,
) -> Path:
    """Write an adapter of a transformer of these sizes as one .safetensors file, and return its path.

    dtype: to store in; the published ones are in bfloat16. Raises OutputError when it cannot be written, and
    PrecisionError for an unknown dtype.
    """
    target, kind = Path(path).expanduser(), parse_dtype(dtype)
    if target.suffix.lower() != ".safetensors":
        raise OutputError(f"{path} cannot be written: end the name of an adapter in .safetensors.")
    tensors: dict[str, Tensor] = {}
    modules: dict[str, AdapterPart] = {}
    for part in adapter.parts:
        for name, one in _apart(part, config):
            convolution = name.endswith(CONVOLUTIONS)
            modules[name] = one
            tensors[f"{PREFIX}{name}.lora_A.weight"] = _shaped(one.down, convolution)
            tensors[f"{PREFIX}{name}.lora_B.weight"] = _shaped(one.up, convolution)
            if one.magnitude is not None:
                shape = (1, -1, 1, 1) if convolution else (-1,)
                tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = one.magnitude.reshape(shape)
    texts = {HEADER_KEY: json.dumps({PREFIX + key: value for key, value in _settings(modules).items()})}
    with exported(target) as partial:
        write_safetensors(partial, tensors, kind, texts=texts)
    return target


def _apart(part: AdapterPart, config: SanaConfig) -> Iterator[tuple[str, AdapterPart]]:
    """Yield a part as diffusers has it: by its names, one for each run of the rows that is apart there."""
    place = part.place
    names = diffusers_module(place.module, guidance_embed=config.guidance_embed)
    step = products(config)[place.module][1] // len(names)
    for number, name in enumerate(names):
        first, last = max(place.start, number * step), min(place.stop, (number + 1) * step)
        if first < last:
            rows = slice(first - place.start, last - place.start)
            yield name, part.cut(rows)


def _settings(modules: dict[str, AdapterPart]) -> dict[str, Any]:
    """Return peft's settings: rank and alpha of most modules, and those of the others by name."""
    rank = Counter(part.rank for part in modules.values()).most_common(1)[0][0]
    alpha = Counter(part.alpha for part in modules.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(modules),
        "rank_pattern": {name: part.rank for name, part in modules.items() if part.rank != rank},
        "alpha_pattern": {name: part.alpha for name, part in modules.items() if part.alpha != alpha},
        "use_rslora": any(part.stabilised for part in modules.values()),
        "use_dora": any(part.magnitude is not None for part in modules.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _shaped(matrix: Tensor, convolution: bool) -> Tensor:
    return matrix[:, :, None, None] if convolution else matrix
