"""A model's default settings, read from its folder, its catalog entry, or both.

The folder's sanakit.json wins over its scheduler file, and that over the catalog.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sanakit.dialect import DIALECTS, Dialect
from sanakit.errors import WeightsError
from sanakit.models.dc_ae import DCAEConfig
from sanakit.models.sana import SANA_600M, SanaConfig
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.known_things import FILE as KNOWN_THINGS
from sanakit.weights.find.catalog import CatalogEntry
from sanakit.weights.find.resolve import OURS, ModelSource, partner, resolve
from sanakit.weights.layouts.official import PIXELS_PER_LATENT
from sanakit.weights.layouts.parts import autoencoder_config, open_transformer, transformer_config
from sanakit.weights.precision import RULES
from sanakit.weights.read.files import read_json

OFFERED = ("styles", "example_prompts", "sizes")  # keys of sanakit.json that a page shows
MAX_TOKENS = 300  # text features of a prompt, in all published models
SOLVERS = {
    "DPMSolverMultistepScheduler": "dpm",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "SCMScheduler": "scm",
}
SHIFT_4K = 6.0  # of the published 4K model, by its official YAML and conversion script; all others have 3
NATIVE_SHIFT_600M = 4.0  # of the 0.6B model at 1024 px, by its official YAML; its diffusers folder says 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """A model's defaults; the caller's settings override each."""

    name: str
    steps: int = 20
    guidance: float = 4.5
    width: int = 1024  # pixels
    height: int = 1024
    solver: str = "dpm"
    flow_shift: float = 3.0
    native_flow_shift: float | None = None  # in the dialect "native", where it differs
    dialect: Dialect = "diffusers"
    precision: str = "any"  # the one 16-bit dtype to compute in, "float32" for none, or "any"
    licence: str = ""
    styles: Mapping[str, str] = field(default_factory=dict)  # name -> what is added to a prompt
    example_prompts: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()  # width and height in pixels that it learned; (): not told
    known_things: Path | None = None  # the file of the things that it draws, see `text/known_things.py`

    @property
    def shift(self) -> float:
        """The flow shift that it is drawn with, in its dialect."""
        own = self.native_flow_shift if self.dialect == "native" else None
        return self.flow_shift if own is None else own


def load_settings(path: str | os.PathLike[str]) -> ModelSettings:
    """Return a model's defaults and rules. path: as for `load_transformer`. Raises as that does."""
    source = resolve(path, ("transformer", "scheduler"))
    settings = _from_entry(source)
    if source.entry is None and not source.runtime:  # graphs tell all of it in their sanakit.json
        settings = replace(settings, **_from_transformer(source))
    if source.is_pipeline:
        settings = replace(settings, **_from_scheduler(source))
    things = source.path / KNOWN_THINGS
    return replace(settings, **_from_ours(source) | {"known_things": things if things.is_file() else None})


def load_configs(path: str | os.PathLike[str]) -> tuple[SanaConfig, DCAEConfig]:
    """Return the sizes of a model's transformer and autoencoder without reading their weights.

    path: as for `load_transformer`. Raises as that does.
    """
    source = resolve(path, ("transformer", "vae"))
    autoencoder = partner(source, ("vae",)) if source.is_file else source
    return transformer_config(source), autoencoder_config(autoencoder)


def precision_rule(source: ModelSource, stored_dtype: str) -> str:
    """Return a transformer's precision rule: its folder's, else its release's, else the 16-bit dtype it is
    stored in.

    A 16-bit file of unknown origin is taken to need its own dtype: the published ones do.
    """
    rule = _from_ours(source).get("precision") or (source.entry.precision if source.entry else None)
    if rule is not None:
        return rule
    return stored_dtype if stored_dtype in ("float16", "bfloat16") else "any"


def instruction_of(source: ModelSource) -> tuple[str, int]:
    """Instruction and most text tokens: the published ones unless the folder's sanakit.json says
    otherwise."""
    content: dict[str, Any] = source.ours()
    instruction = content.get("instruction", COMPLEX_HUMAN_INSTRUCTION)
    max_tokens = content.get("max_tokens", MAX_TOKENS)
    if not isinstance(instruction, str) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise WeightsError(
            f"{source.path / OURS}: instruction must be text and max_tokens a whole number above 0."
        )
    return instruction, max_tokens


def dialect_of(source: ModelSource) -> Dialect:
    """Return the dialect of a folder's sanakit.json, for its text encoder. Raises WeightsError."""
    return _from_ours(source).get("dialect", "diffusers")


def _from_entry(source: ModelSource) -> ModelSettings:
    entry = source.entry
    if entry is None:
        return ModelSettings(name=source.path.name)
    shared = {field.name for field in fields(ModelSettings)} & {field.name for field in fields(CatalogEntry)}
    return ModelSettings(**{name: getattr(entry, name) for name in shared})


def _from_transformer(source: ModelSource) -> dict[str, Any]:
    """Read from the transformer its size in pixels, its dtype and shift, and whether it is Sprint."""
    files, _, config = open_transformer(source)
    side = config.sample_size * PIXELS_PER_LATENT
    sampler = {"solver": "scm", "steps": 2} if config.guidance_embed else {}
    sampler |= {"flow_shift": SHIFT_4K} if side >= 4096 else {}
    sampler |= {"native_flow_shift": NATIVE_SHIFT_600M} if config == SANA_600M else {}
    return {"width": side, "height": side, "precision": precision_rule(source, files.dtype), **sampler}


def _from_scheduler(source: ModelSource) -> dict[str, Any]:
    path = source.path / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return {}
    config = read_json(path)
    found: dict[str, Any] = {}
    if config.get("_class_name") in SOLVERS:
        found["solver"] = SOLVERS[config["_class_name"]]
    shift = config.get("flow_shift", config.get("shift"))
    if shift is None:
        return found
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not 0 < shift < math.inf:
        raise WeightsError(f"{path} says flow_shift = {shift!r}; it must be a number above 0, usually 3.")
    # the scripts' shift stands for the published 3 alone: a folder that was trained with another knows better
    return {**found, "flow_shift": float(shift)} | ({} if shift == 3 else {"native_flow_shift": None})


def _from_ours(source: ModelSource) -> dict[str, Any]:
    """Return the folder's sanakit.json, checked: a wrong type there would only show as a strange image."""
    content = source.ours()
    if not content:
        return {}
    where = source.path / OURS
    defaults = content.get("defaults", {})
    if not isinstance(defaults, dict):
        raise WeightsError(f"{where}: defaults is {defaults!r}; it must be an object of settings.")
    given = {**defaults, **{key: content[key] for key in ("name", "precision", "licence") if key in content}}
    if given.get("native_flow_shift", 0) is None:  # as the flow shift, which is the usual way
        del given["native_flow_shift"]
    kinds = {"steps": int, "width": int, "height": int, "guidance": float, "flow_shift": float}
    kinds["native_flow_shift"] = float
    listed = {"precision": tuple(RULES), "dialect": DIALECTS}
    found: dict[str, Any] = {}
    for name in (known.name for known in fields(ModelSettings)):
        if name not in given or name in OFFERED:
            continue
        value = given[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        kind = kinds.get(name, str)
        fits = isinstance(value, str) if kind is str else number and value > 0 and value == kind(value)
        if not fits or value not in listed.get(name, (value,)):
            allowed = " | ".join(listed[name]) if name in listed else f"a {kind.__name__}"
            raise WeightsError(f"{where} says {name} = {value!r}; it must be {allowed}.")
        found[name] = kind(value)
    if "flow_shift" in found:  # of the folder: it holds in every dialect
        found.setdefault("native_flow_shift", None)
    return found | _offered(content, where)


def _offered(content: dict[str, Any], where: Path) -> dict[str, Any]:
    """Return what a model offers to people who draw with it: styles, example prompts and sizes, checked."""
    found: dict[str, Any] = {}
    styles, prompts, sizes = (content.get(key) for key in OFFERED)
    if styles is not None:
        fits = isinstance(styles, dict) and all(isinstance(suffix, str) for suffix in styles.values())
        found["styles"] = _checked(fits, where, "styles", styles, "an object of name: words for the prompt")
    if prompts is not None:
        fits = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
        found["example_prompts"] = tuple(
            _checked(fits, where, "example_prompts", prompts, "a list of prompts")
        )
    if sizes is not None:
        fits = isinstance(sizes, list) and all(_is_size(size) for size in sizes)
        pairs = _checked(fits, where, "sizes", sizes, "a list of [width, height] in pixels")
        found["sizes"] = tuple((width, height) for width, height in pairs)
    return found


def _is_size(value: Any) -> bool:
    whole = isinstance(value, list) and all(type(side) is int and side > 0 for side in value)
    return whole and len(value) == 2


def _checked(fits: bool, where: Path, name: str, value: Any, allowed: str) -> Any:
    if not fits:
        raise WeightsError(f"{where} says {name} = {value!r}; it must be {allowed}.")
    return value
