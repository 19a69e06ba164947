"""A model's default settings, read from its folder, its catalog entry, or both.

The folder's sanakit.json wins over its scheduler file, and that over the catalog.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sanakit.clips.sizes import trained_sizes, usual_size
from sanakit.dialect import DIALECTS, USUAL, Dialect
from sanakit.errors import SettingsError, WeightsError
from sanakit.flow.guidance_kinds import PLAIN, read_kind
from sanakit.models.dc_ae import DCAEConfig
from sanakit.models.sana import SANA_600M, SanaConfig
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.video.sana_video import SanaVideoConfig, VideoConfig
from sanakit.models.video.sana_video2 import SanaVideo2Config
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.known_things import FILE as KNOWN_THINGS
from sanakit.text.native import NATIVE_INSTRUCTION
from sanakit.text.video import VIDEO_INSTRUCTION
from sanakit.weights.find.catalog import CONTROLNETS, CatalogEntry
from sanakit.weights.find.hub import WEIGHTED
from sanakit.weights.find.resolve import OURS, ModelSource, partner, recognised, resolve
from sanakit.weights.layouts.fields import COUNT
from sanakit.weights.layouts.official import PIXELS_PER_LATENT
from sanakit.weights.layouts.parts import autoencoder_config, open_transformer, transformer_config
from sanakit.weights.layouts.released import examined
from sanakit.weights.layouts.scheduler import read_scheduler
from sanakit.weights.precision import RULES
from sanakit.weights.read.files import open_component

OFFERED = ("styles", "example_prompts", "sizes", "control_models")  # keys of sanakit.json that a page shows
OF_CLIPS = ("frames", "fps", "negative_prompt", "motion", "chunks")  # defaults that `weights/video` reads
MAX_TOKENS = 300  # text features of a prompt, in all published models
_ALLOWED = {str: "text without NUL and lone surrogates"}
MOST = 1e9  # of any number in a folder's defaults
SHIFT_4K = 6.0  # of the published 4K model, by its official YAML and conversion script; all others have 3
PUBLISHED_SHIFT = 3.0  # in the schedulers of the published folders
NATIVE_SHIFT_600M = 4.0  # of the 0.6B model at 1024 px, by its official YAML; its diffusers folder says 3
# Of the video models, by diffusers' pipeline and conversion script; the official YAML at 480p says 7.
VIDEO_DEFAULTS = {"steps": 50, "guidance": 6.0, "flow_shift": 8.0}
# Of SANA-WM, by diffusers' pipeline and its released scheduler.
WORLD_DEFAULTS: dict[str, Any] = {"steps": 60, "guidance": 5.0, "flow_shift": 9.8, "solver": "euler"}
WORLD_SIZE = {"width": 1280, "height": 704}
VIDEO2_DEFAULTS = {"steps": 50, "guidance": 8.0, "flow_shift": 12.0}  # of SANA-Video 2.0's released sampler
SAMPLE_SIZE_480P, NATIVE_SHIFT_480P = 30, 7.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """A model's defaults; the caller's settings override each."""

    name: str
    steps: int = 20
    guidance: float = 4.5
    guidance_kind: str = "cfg"  # see `flow/guidance_kinds.py`
    width: int = 1024  # pixels
    height: int = 1024
    solver: str = "dpm"
    flow_shift: float = 3.0
    native_flow_shift: float | None = None  # in the dialect "native", where it differs
    dialect: Dialect = USUAL
    precision: str = "any"  # the one 16-bit dtype to compute in, "float32" for none, or "any"
    licence: str = ""
    styles: Mapping[str, str] = field(default_factory=dict)  # name -> what is added to a prompt
    example_prompts: tuple[str, ...] = ()
    control_models: tuple[str, ...] = ()  # embedded ControlNets for it, by name
    sizes: tuple[tuple[int, int], ...] = ()  # width and height in pixels that it learned; (): not told
    known_things: Path | None = None  # the file of the things that it draws, see `text/known_things.py`
    notes: tuple[str, ...] = ()  # what the user should know about how the model's files are taken

    @property
    def shift(self) -> float:
        """The flow shift that it is drawn with, in its dialect."""
        own = self.native_flow_shift if self.dialect == "native" else None
        return self.flow_shift if own is None else own


def load_settings(path: str | os.PathLike[str]) -> ModelSettings:
    """Return a model's defaults and rules. path: as for `load_transformer`. Raises as that does."""
    source = examined(resolve(path, ("transformer", "scheduler")))
    settings = _from_entry(source)
    if source.entry is None and not source.runtime:  # graphs tell all of it in their sanakit.json
        settings = replace(settings, **_from_transformer(source))
    if source.is_pipeline:
        scheduler = read_scheduler(source.path / "scheduler" / "scheduler_config.json")
        published = VIDEO_DEFAULTS["flow_shift"] if source.makes_clips else PUBLISHED_SHIFT
        if scheduler.get("flow_shift", published) != published:
            scheduler["native_flow_shift"] = None  # the scripts' shift stands for the published one alone
        settings = replace(settings, **scheduler)
    things = source.path / KNOWN_THINGS
    told: dict[str, Any] = {"known_things": things if things.is_file() else None}
    ours = _from_ours(source)
    told["notes"] = (*source.notes, *part_notes(source), *unused_defaults(source))
    return replace(settings, **ours | told)


def part_notes(source: ModelSource) -> tuple[str, ...]:
    """Return what the user should know about the files of a folder's parts, as far as they are here."""
    if source.is_file or source.runtime:
        return ()
    folders = [source.path / part for part in WEIGHTED] if source.is_pipeline else [source.path]
    notes: list[str] = []
    for folder in folders:
        with suppress(WeightsError):  # it is told where that part is loaded
            files = open_component(folder, source.variant)
            recognised(files)
            notes += files.notes
    return tuple(notes)


def unused_defaults(source: ModelSource) -> list[str]:
    """Return a note on the keys of a folder's defaults that nothing reads: newer ones, or misspelt."""
    known = {known.name for known in fields(ModelSettings)}
    known |= set(OF_CLIPS) if source.makes_clips or source.makes_worlds else set()
    if not (unknown := [key for key in source.ours().get("defaults", {}) if key not in known]):
        return []
    near = difflib.get_close_matches(unknown[0], sorted(known), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return [f"{source.path / OURS} sets {', '.join(unknown)}, which no default is called: not used.{hint}"]


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
    published = VIDEO_INSTRUCTION if source.makes_clips else COMPLEX_HUMAN_INSTRUCTION
    published = NATIVE_INSTRUCTION if source.makes_worlds else published
    instruction = content.get("instruction", published)
    max_tokens = content.get("max_tokens", MAX_TOKENS)
    if not isinstance(instruction, str) or not COUNT.fits(max_tokens):
        raise WeightsError(f"{source.path / OURS}: instruction must be text, and max_tokens {COUNT}.")
    return instruction, max_tokens


def dialect_of(source: ModelSource) -> Dialect:
    """Return the dialect of a folder's sanakit.json, for its text encoder. Raises WeightsError."""
    return _from_ours(source).get("dialect", USUAL)


def _from_entry(source: ModelSource) -> ModelSettings:
    entry = source.entry
    if entry is None:
        return ModelSettings(name=source.name)
    shared = {field.name for field in fields(ModelSettings)} & {field.name for field in fields(CatalogEntry)}
    return ModelSettings(**{name: getattr(entry, name) for name in shared})


def _from_transformer(source: ModelSource) -> dict[str, Any]:
    """Read from the transformer its size in pixels, its dtype and shift, and whether it is Sprint."""
    files, _, config = open_transformer(source)
    if isinstance(config, SanaVideoConfig):
        return _video_defaults(config) | {"precision": precision_rule(source, files.dtype)}
    if isinstance(config, SanaVideo2Config):
        return {**VIDEO2_DEFAULTS, "precision": precision_rule(source, files.dtype)}
    if isinstance(config, SanaStreamingConfig):  # of the LTX-2 autoencoder's latents
        width, height = usual_size(config.sample_size, PIXELS_PER_LATENT)
        return {"width": width, "height": height, "precision": precision_rule(source, files.dtype)}
    if isinstance(config, VideoConfig):
        return {**WORLD_DEFAULTS, **WORLD_SIZE, "precision": precision_rule(source, files.dtype)}
    side = config.sample_size * PIXELS_PER_LATENT
    sampler = {"solver": "scm", "steps": 2} if config.guidance_embed else {}
    sampler |= {"flow_shift": SHIFT_4K} if side >= 4096 else {}
    sampler |= {"native_flow_shift": NATIVE_SHIFT_600M} if config == SANA_600M else {}
    return {"width": side, "height": side, "precision": precision_rule(source, files.dtype), **sampler}


def _video_defaults(config: SanaVideoConfig) -> dict[str, Any]:
    """Return the defaults of a video transformer; its size in pixels depends on the autoencoder, too."""
    native = {"native_flow_shift": NATIVE_SHIFT_480P} if config.sample_size == SAMPLE_SIZE_480P else {}
    return {**VIDEO_DEFAULTS, **native, "sizes": trained_sizes(config.sample_size)}


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
    if given.get("name") == "":  # as good as none
        del given["name"]
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
        fits = _is_text(value) if kind is str else number and 0 < value < MOST and value == kind(value)
        if not fits or value not in listed.get(name, (value,)):
            allowed = " | ".join(listed[name]) if name in listed else _ALLOWED.get(kind, f"a {kind.__name__}")
            raise WeightsError(f"{where} says {name} = {value!r}; it must be {allowed}.")
        found[name] = kind(value)
    try:
        read_kind(found.get("guidance_kind", str(PLAIN)))
    except SettingsError as error:
        raise WeightsError(f"{where}: {error}") from None
    if "flow_shift" in found:  # of the folder: it holds in every dialect
        found.setdefault("native_flow_shift", None)
    return found | _offered(content, where)


def _offered(content: dict[str, Any], where: Path) -> dict[str, Any]:
    """Return what a model offers: styles, example prompts, sizes and ControlNets, checked."""
    found: dict[str, Any] = {}
    styles, prompts, sizes, nets = (content.get(key) for key in OFFERED)
    if styles is not None:
        fits = isinstance(styles, dict) and all(_is_text(text) for pair in styles.items() for text in pair)
        found["styles"] = _checked(fits, where, "styles", styles, "an object of name: words for the prompt")
    if prompts is not None:
        fits = isinstance(prompts, list) and all(map(_is_text, prompts))
        found["example_prompts"] = tuple(
            _checked(fits, where, "example_prompts", prompts, "a list of prompts")
        )
    if sizes is not None:
        fits = isinstance(sizes, list) and all(_is_size(size) for size in sizes)
        pairs = _checked(fits, where, "sizes", sizes, "a list of [width, height] in pixels")
        found["sizes"] = tuple((width, height) for width, height in pairs)
    if nets is not None:
        fits = isinstance(nets, list) and all(net in [*CONTROLNETS] for net in nets)
        allowed = f"a list of {' | '.join(CONTROLNETS)}"
        found["control_models"] = tuple(_checked(fits, where, "control_models", nets, allowed))
    return found


def _is_text(value: Any) -> bool:
    """Return whether a value is text that images, JSON and pages can hold."""
    return isinstance(value, str) and not any(one == "\0" or "\ud800" <= one <= "\udfff" for one in value)


def _is_size(value: Any) -> bool:
    whole = isinstance(value, list) and all(type(side) is int and side > 0 for side in value)
    return whole and len(value) == 2


def _checked(fits: bool, where: Path, name: str, value: Any, allowed: str) -> Any:
    if not fits:
        raise WeightsError(f"{where} says {name} = {value!r}; it must be {allowed}.")
    return value
