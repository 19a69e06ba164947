"""Tensors, layout and config of each part of a source, from headers alone: for loading and inspecting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DC_AE_LITE, DCAE, DCAEConfig
from sanakit.models.gemma2 import Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.sana_video2 import SanaVideo2, SanaVideo2Config
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.quant.plans import PLANS, Plan
from sanakit.quant.quantize import stand_in
from sanakit.weights.find.resolve import ModelSource, holds_base, kind_words, open_network, recognised
from sanakit.weights.layouts import diffusers, official, sana_video, sana_wm
from sanakit.weights.layouts.clips import sana_streaming, sana_video2
from sanakit.weights.layouts.controlnet import copies_skipped
from sanakit.weights.layouts.fields import (
    AUTOENCODER,
    SANA_STREAMING,
    SANA_VIDEO,
    SANA_VIDEO2,
    SANA_WM,
    TEXT,
    TRANSFORMER,
    Allowed,
    check_fields,
    check_rope,
)
from sanakit.weights.read.disk import AGAIN, read_json
from sanakit.weights.read.files import TensorFiles, open_component

Module = TypeVar("Module", bound=nn.Module)
Described = TypeVar("Described")
Config = TypeVar("Config", bound=SanaConfig)
Pairs = Iterable[tuple[Sequence[str], Sequence[str]]]  # names in the file, names in the module

# By layout; "sanakit" has our modules' own names, of quantised weights.
_TRANSFORMER_SKIPPED = {"official": official.SKIPPED, "diffusers": diffusers.SKIPPED, "sanakit": {}}
TEXT_SKIPPED = {"lm_head.weight": "the language head, which SANA does not use"}
QUANTIZATION = "quantization_config"  # of a part's config.json, as other tools call it, too
NAMED = 4  # names that an error message quotes
# Classes of folders that keep the official names of tensors.
_OFFICIAL_NAMES = (sana_streaming.CLASS, sana_video2.CLASS)
SANA, DC_AE, GEMMA2 = "SanaTransformer2DModel", "AutoencoderDC", "Gemma2"  # classes that config.json tells


def open_transformer(source: ModelSource) -> tuple[TensorFiles, str, SanaConfig]:
    """Return the tensors, layout and config of a source's transformer; nothing but headers is read.

    The config of a transformer of clips is a SanaVideoConfig or a SanaVideo2Config, that of one that edits
    clips a SanaStreamingConfig, that of a world model a SanaWMConfig.
    """
    if not source.is_file:
        config, kind = transformer_config(source), transformer_class(source)
        layout = "official" if kind in _OFFICIAL_NAMES else "diffusers"
        layout = "sanakit" if stored_plan(source, "transformer") else layout
        return _open_part(source, "transformer", kind), layout, config
    files, layout = _open_file(source, "transformer", ": use a SANA model.")
    return files, layout, file_config(source, files, layout)


def file_config(source: ModelSource, files: TensorFiles, layout: str) -> SanaConfig:
    """Return the sizes of a transformer in a single file: told by a config.json beside it, or its tensors."""
    if sana_wm.is_world(files.infos):
        return _world_config(source, files, layout)
    if sana_streaming.is_streaming(files.infos):
        return _streaming_config(source, files)
    if sana_video2.is_video2(files.infos):
        return _video2_config(source, files)
    if sana_video.is_video(files.infos):
        return _video_config(source, files, layout)
    if beside := config_beside(source, layout, SANA):
        return _sana_config(beside)
    return official.recognise_config(
        files.infos, layout=layout, metadata=files.metadata, entry=source.entry, where=str(source.path)
    )


def text_encoder_config(source: ModelSource) -> Gemma2Config:
    """Return the sizes of a folder's text encoder, which may be a graph."""
    path = source.part("text_encoder", GEMMA2) / "config.json"
    config = _fields(path, TEXT)
    check_rope(config, path)
    return Gemma2Config.from_transformers(config)


def transformer_config(source: ModelSource) -> SanaConfig:
    """Return the sizes of a source's transformer, which may be a graph."""
    if not source.runtime:
        return (
            open_transformer(source)[2]
            if source.is_file
            else _folder_config(source, transformer_class(source))
        )
    return _folder_config(source, SANA)


def transformer_class(source: ModelSource) -> str:
    """Return which class of a transformer a folder holds, as far as it is a known one; else SANA's."""
    folder = source.path / "transformer" if source.is_pipeline else source.path
    config = folder / "config.json"
    came = read_json(config).get("_class_name") if config.is_file() else None
    known = (sana_video.CLASS, sana_video.CAUSAL, *_OFFICIAL_NAMES, sana_wm.CLASS)
    return came if came in known else SANA


def build_transformer(
    config: SanaConfig,
) -> Callable[[], Sana | SanaVideo | SanaVideo2 | SanaStreaming | SanaWM]:
    """Return what builds the module of a config."""
    if isinstance(config, SanaStreamingConfig):
        return partial(SanaStreaming, config)
    if isinstance(config, SanaVideo2Config):
        return partial(SanaVideo2, config)
    if isinstance(config, SanaWMConfig):
        return partial(SanaWM, config)
    return partial(SanaVideo, config) if isinstance(config, SanaVideoConfig) else partial(Sana, config)


def autoencoder_config(source: ModelSource) -> DCAEConfig:
    """Return the sizes of a source's autoencoder, whose decoder may be a graph."""
    if not source.runtime:
        return open_autoencoder(source)[2]
    return _autoencoder_config(source.part("vae_decoder", DC_AE) / "config.json")


def open_autoencoder(source: ModelSource) -> tuple[TensorFiles, str, DCAEConfig]:
    """Return the tensors, layout and config of a source's autoencoder; nothing but headers is read."""
    if not source.is_file:
        files = _open_part(source, "vae", DC_AE)
        return files, "diffusers", _autoencoder_config(source.part("vae", DC_AE) / "config.json")
    files, layout = _open_file(source, "autoencoder", ", not an autoencoder: use a DC-AE.")
    if beside := config_beside(source, layout, DC_AE):
        return files, layout, _autoencoder_config(beside)
    names = {target for _, targets in autoencoder_pairs(files.infos, layout) for target in targets}
    for config in (DC_AE_F32C32_SANA, DC_AE_LITE):
        if names == set(empty(partial(DCAE, config), source).state_dict()):
            return files, layout, config
    raise WeightsError(
        f"{source.path} holds a DC-AE of an unknown size: load it from a diffusers folder, whose "
        "config.json describes it."
    )


def open_text_encoder(source: ModelSource) -> tuple[TensorFiles, Gemma2Config]:
    """Return the tensors and config of a folder's text encoder; nothing but headers is read."""
    return _open_part(source, "text_encoder", GEMMA2), text_encoder_config(source)


def described(
    path: Path, config: dict[str, Any], read: Callable[[dict[str, Any]], Described], what: str
) -> Described:
    """Return what the content of a JSON file describes. Raises WeightsError."""
    try:
        return read(config)
    except SettingsError as error:
        raise WeightsError(f"{path} describes an unsupported {what} ({error}). {AGAIN}") from None
    except ValueError:  # each field is right by itself
        raise WeightsError(
            f"{path} describes a {what} whose lists of widths and blocks have different lengths. {AGAIN}"
        ) from None


def stored_plan(source: ModelSource, part: str) -> Plan | None:
    """Return the plan by which a part of a source ("transformer", "text_encoder") was quantised, if it was.

    Such a part has the module's own names. Raises WeightsError for what another tool quantised.
    """
    if source.is_file:
        return None
    path = source.folder(part) / "config.json"
    said = read_json(path).get(QUANTIZATION) if path.exists() else None
    if said is None:
        return None
    method, name = (said.get(key) if isinstance(said, dict) else None for key in ("quant_method", "plan"))
    if method != "sanakit" or not isinstance(name, str) or name not in PLANS:
        raise WeightsError(
            f"{path}: the weights were quantised by {method or 'another tool'} in an unknown way: use "
            "the original model and quantise it with `sana quantize`."
        )
    return PLANS[name]


def transformer_pairs(names: Iterable[str], layout: str, config: SanaConfig) -> Pairs:
    """Pair the names in a file of this layout with the module's own `names`."""
    if layout in ("official", "sanakit"):
        return [((name,), (name,)) for name in names]
    return [(theirs, ours) for ours, theirs in diffusers_renames(names, config)]


def diffusers_renames(names: Iterable[str], config: SanaConfig) -> list[diffusers.Rename]:
    """Pair a transformer's own `names` with those of diffusers."""
    if isinstance(config, SanaVideoConfig):
        return sana_video.renames(names)
    if isinstance(config, SanaStreamingConfig | SanaVideo2Config):
        return [((name,), (name,)) for name in names]  # their folders keep the official names
    if isinstance(config, SanaWMConfig):
        return sana_wm.renames(names)
    return diffusers.renames(names, guidance_embed=config.guidance_embed)


def transformer_skipped(layout: str, files: TensorFiles) -> dict[str, str]:
    """Return the tensors of a file that are left out of its transformer, each with the reason."""
    return {**_TRANSFORMER_SKIPPED[layout], **copies_skipped(files.infos)}


def autoencoder_pairs(names: Iterable[str], layout: str) -> Pairs:
    """Pair the `names` in a file of this layout with the module's own."""
    if layout == "official":
        return official.autoencoder_renames(names)
    return [((name,), (name,)) for name in names]


def text_encoder_pairs(files: TensorFiles) -> Pairs:
    """Pair the names in a Gemma 2 file with the module's own; those of Gemma2ForCausalLM begin with
    `model.`."""
    named = files.without_prefix("model.")
    return [((theirs,), (ours,)) for ours, theirs in named.items() if ours not in TEXT_SKIPPED]


def config_beside(source: ModelSource, layout: str, *class_names: str) -> Path | None:
    """Return the config.json beside a single file in diffusers' layout, if it is of one of those classes."""
    beside = source.path.parent / "config.json"
    told = layout == "diffusers" and beside.is_file() and read_json(beside).get("_class_name") in class_names
    return beside if told else None


def differences(
    expected: Iterable[str], files: TensorFiles, pairs: Pairs, skipped: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Names that a checkpoint lacks, and names in it that the module does not have; both empty when it
    fits."""
    expected, pairs = set(expected), list(pairs)
    given = {target for _, targets in pairs for target in targets}
    used = {name for sources, _ in pairs for name in sources}
    missing = [name for sources, _ in pairs for name in sources if name not in files.infos]
    unknown = [name for name in files.infos if name not in used and name not in set(skipped)]
    return missing + sorted(expected - given), unknown + sorted(given - expected)


def empty(build: Callable[[], Module], source: ModelSource, plan: Plan | None = None) -> Module:
    """Build a module without memory for its weights. plan: by which its file was quantised.

    Raises WeightsError when its sizes do not go together.
    """
    try:
        with torch.device("meta"), _Undrawn():
            module = build()
            if plan is not None:
                stand_in(module, plan)
            return module
    except (SettingsError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{source.path} describes a model that cannot be built ({error}). {AGAIN}"
        ) from None


class _Undrawn(TorchFunctionMode):
    """Leaves out drawing first values, which on the meta device imports torch's compiler (1.5 s)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def _open_part(source: ModelSource, part: str, class_name: str) -> TensorFiles:
    """Return the tensors of one part of a folder. Raises WeightsError for a class of another name."""
    files = open_component(source.part(part, class_name), source.variant)
    recognised(files)
    return files


def _open_file(source: ModelSource, kind: str, remedy: str) -> tuple[TensorFiles, str]:
    """Return tensors and layout of a single file. Raises WeightsError where it holds another kind."""
    files, came, layout = open_network(source.path)
    if came != kind and not (kind == "transformer" and holds_base(files)):
        first = ", ".join(list(files.infos)[:NAMED])
        raise WeightsError(f"{source.path} holds {kind_words(came)} (its first tensors: {first}){remedy}")
    return files, layout


def _sana_config(path: Path) -> SanaConfig:
    config = _fields(path, TRANSFORMER)
    return diffusers.read_sana_config(config, str(path))


def _folder_config(source: ModelSource, kind: str) -> SanaConfig:
    path = source.part("transformer", kind) / "config.json"
    if kind == SANA:
        return _sana_config(path)
    readers = {layout.CLASS: layout.read_config for layout in (sana_streaming, sana_video2, sana_wm)}
    return readers.get(kind, sana_video.read_config)(read_json(path), str(path))


def _video_config(source: ModelSource, files: TensorFiles, layout: str) -> SanaVideoConfig:
    """Return the sizes of a transformer of clips in a single file, all as for `file_config`."""
    beside = config_beside(source, layout, sana_video.CLASS, sana_video.CAUSAL)
    told = _told_config(source, files, beside, sana_video.read_config, SanaVideoConfig, SANA_VIDEO)
    return told or sana_video.recognise_config(
        files.infos,
        layout=layout,
        metadata=files.metadata,
        name=source.path.name,
        where=str(source.path),
    )


def _streaming_config(source: ModelSource, files: TensorFiles) -> SanaStreamingConfig:
    """Return the sizes of a SANA-Streaming in a single file, all as for `file_config`."""
    beside = config_beside(source, "diffusers", sana_streaming.CLASS)  # its tensors have one layout
    read = sana_streaming.read_config
    told = _told_config(source, files, beside, read, SanaStreamingConfig, SANA_STREAMING)
    return told or sana_streaming.recognise_config(files.infos, where=str(source.path))


def _video2_config(source: ModelSource, files: TensorFiles) -> SanaVideo2Config:
    """Return the sizes of a SANA-Video 2.0 in a single file, all as for `file_config`."""
    beside = config_beside(source, "diffusers", sana_video2.CLASS)  # its tensors have one layout
    told = _told_config(source, files, beside, sana_video2.read_config, SanaVideo2Config, SANA_VIDEO2)
    return told or sana_video2.recognise_config(files.infos, where=str(source.path))


def _world_config(source: ModelSource, files: TensorFiles, layout: str) -> SanaWMConfig:
    """Return the sizes of a world model in a single file, all as for `file_config`."""
    beside = config_beside(source, layout, sana_wm.CLASS)
    told = _told_config(source, files, beside, sana_wm.read_config, SanaWMConfig, SANA_WM)
    return told or sana_wm.recognise_config(
        files.infos, metadata=files.metadata, name=source.path.name, where=str(source.path)
    )


def _told_config(
    source: ModelSource,
    files: TensorFiles,
    beside: Path | None,
    read: Callable[[dict[str, Any], str], Config],
    kind: type[Config],
    allowed: Mapping[str, Allowed],
) -> Config | None:
    """Return the sizes that a config.json beside a single file tells, else the file itself; None: neither."""
    if beside:
        return read(read_json(beside), str(beside))
    if (saved := files.metadata.get(official.CONFIG_KEY)) is not None:
        return official.saved_config(saved, kind, allowed, str(source.path))
    return None


def _autoencoder_config(path: Path) -> DCAEConfig:
    return described(path, _fields(path, AUTOENCODER), DCAEConfig.from_diffusers, "DC-AE")


def _fields(path: Path, fields: Mapping[str, Allowed]) -> dict[str, Any]:
    """Read a part's config.json, checked. Raises WeightsError."""
    config = read_json(path)
    check_fields(config, fields, path)
    return config
