"""Describe a file or folder from its headers alone: `sana inspect PATH`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sanakit.errors import ModelNotFoundError
from sanakit.graphs.parts import Graph
from sanakit.models.controlnet import ControlNet
from sanakit.models.dc_ae import DCAE
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.models.video.sana_video import VideoConfig
from sanakit.weights.control import PART, hint_of, open_controlnet
from sanakit.weights.find import catalog, hub
from sanakit.weights.find.catalog import CATALOG, CLIP_MODELS, CONTROLNETS, SCORERS, CatalogEntry
from sanakit.weights.find.resolve import (
    ModelSource,
    check_finished,
    holds_base,
    open_network,
    recognised,
    resolve,
)
from sanakit.weights.graphs import DECODER
from sanakit.weights.known_things import load_known_things
from sanakit.weights.layouts.controlnet import controlnet_pairs, controlnet_skipped
from sanakit.weights.layouts.official import PIXELS_PER_LATENT
from sanakit.weights.layouts.parts import (
    TEXT_SKIPPED,
    Pairs,
    autoencoder_config,
    autoencoder_pairs,
    build_transformer,
    differences,
    empty,
    open_autoencoder,
    open_text_encoder,
    open_transformer,
    stored_plan,
    text_encoder_config,
    text_encoder_pairs,
    transformer_config,
    transformer_pairs,
    transformer_skipped,
)
from sanakit.weights.layouts.released import examined, size_name, steered_name
from sanakit.weights.layouts.video_vae import open_video_vae
from sanakit.weights.layouts.wan_vae import KIND
from sanakit.weights.read.files import TensorFiles, open_component
from sanakit.weights.settings import ModelSettings, load_settings, part_notes, unused_defaults


@dataclass(frozen=True, kw_only=True, slots=True)
class PartDescription:
    """One network of a model. missing and unexpected are empty when it loads."""

    kind: str  # as of `identify`: transformer, autoencoder, ...
    layout: str  # official | diffusers | "" when unknown
    size: str  # name of the size, or "unreleased size"
    parameters: int
    dtype: str  # that most numbers are stored in
    bytes: int  # on the disk
    depth: int = 0
    width: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The model at a path: its parts, and its default settings if known."""

    path: str
    kind: str  # model (whole folder) | release (catalog, not here) | or the kind of its one part
    release: str  # catalog name, as far as the file's or folder's name tells; "" otherwise
    licence: str
    parts: tuple[PartDescription, ...]
    settings: ModelSettings | None  # None for what cannot be drawn with
    resolution: int = 0  # pixels along a side that the transformer was trained for; 0 unknown
    download_bytes: int = 0  # of a release that is not here
    known_things: int = 0  # that its folder names; 0: it names none
    known_words: int = 0  # further words for them
    notes: tuple[str, ...] = ()  # what the user should know about how it is taken


def describe(path: str | os.PathLike[str]) -> Description:
    """Tell what a file or folder holds. Of safetensors only headers are read; nothing is ever downloaded.

    path: a folder, a weight file, or a catalog name. A release that is not here is described from the
    catalog.
    Raises ModelNotFoundError when nothing is there, WeightsError when it is damaged.
    """
    text = os.fspath(path)
    text = os.fspath(SCORERS.get(text, text))
    entry = CATALOG.get(text)
    if entry is not None and entry.repo is not None:
        return _release(entry)
    known = entry is not None or text in CONTROLNETS or text in CLIP_MODELS
    if not known:
        check_finished(Path(text).expanduser())
    if not known and not os.path.exists(Path(text).expanduser()):
        if hub.REPO_NAME.fullmatch(text):
            raise ModelNotFoundError(
                f"There is no file or folder {text!r}, and Hub repositories are not downloaded here: "
                "use a path, or a name that `sana models` lists."
            )
        return _release(catalog.find(text))
    source = examined(resolve(text))
    parts = tuple(_file_parts(source) if source.is_file else _folder_parts(source))
    kinds = [part.kind for part in parts]
    drawn = "transformer" in kinds and not isinstance(transformer_config(source), VideoConfig)
    settings = load_settings(text) if drawn else None
    things = load_known_things(settings) if settings else None
    return Description(
        path=str(source.path),
        kind="model" if len(parts) > 1 else kinds[0],
        release=source.entry.name if source.entry else "",
        licence=(settings.licence if settings else str(source.ours().get("licence", "")))
        or (source.entry.licence if source.entry else ""),
        parts=parts,
        settings=settings,
        resolution=transformer_config(source).sample_size * PIXELS_PER_LATENT if drawn else 0,
        known_things=len(things.things) if things else 0,
        known_words=sum(map(len, things.things.values())) if things else 0,
        notes=(*source.notes, *part_notes(source), *unused_defaults(source)),
    )


def _release(entry: CatalogEntry) -> Description:
    return Description(
        path=f"https://huggingface.co/{entry.repo}",
        kind="release",
        release=entry.name,
        licence=entry.licence,
        parts=(),
        settings=None,
        resolution=entry.width,
        download_bytes=entry.download_bytes,
    )


def _file_parts(source: ModelSource) -> Iterable[PartDescription]:
    files, kind, layout = open_network(source.path)
    describers = {"transformer": _transformer, "autoencoder": _autoencoder, "controlnet": _controlnet}
    describers[KIND] = _autoencoder
    if holds_base(files):
        yield _transformer(source)
    if kind in describers:
        yield describers[kind](source)
    else:
        yield _part(kind, layout, "", files)


def _folder_parts(source: ModelSource) -> Iterable[PartDescription]:
    describers = {
        **{"transformer": _transformer, "vae": _autoencoder, "text_encoder": _text_encoder},
        PART: _controlnet,
    }
    if source.runtime:
        yield from _graph_parts(source)
        return
    if source.is_pipeline:
        for name, describer in describers.items():
            if source.folder(name).is_dir():
                yield describer(source)
        return
    files = open_component(source.path, source.variant)
    kind, layout = recognised(files)
    by_kind = {"transformer": _transformer, "autoencoder": _autoencoder, "text_encoder": _text_encoder}
    by_kind |= {"controlnet": _controlnet, KIND: _autoencoder}
    yield by_kind[kind](source) if kind in by_kind else _part(kind, layout, "", files)


def _graph_parts(source: ModelSource) -> Iterable[PartDescription]:
    """Parts that a runtime runs: sizes as their config.json tells; the graphs themselves are not opened."""
    transformer = transformer_config(source)
    text = text_encoder_config(source)
    rows = (
        ("transformer", "transformer", partial(Sana, transformer), transformer),
        ("autoencoder", DECODER, partial(DCAE, autoencoder_config(source), "decoder"), None),
        ("text_encoder", "text_encoder", partial(Gemma2, text), text),
    )
    for kind, folder, build, sizes in rows:
        graph = Graph(source.path / folder, source.runtime)
        parameters = sum(parameter.numel() for parameter in empty(build, source).parameters())
        yield PartDescription(
            kind=kind,
            layout=source.runtime,
            size="",
            parameters=parameters,
            dtype="float16" if graph.bytes < 3 * parameters else "float32",
            bytes=graph.bytes,
            depth=sizes.depth if sizes else 0,
            width=sizes.width if sizes else 0,
        )


def _transformer(source: ModelSource) -> PartDescription:
    files, layout, config = open_transformer(source)
    names = empty(build_transformer(config), source, stored_plan(source, "transformer")).state_dict()
    pairs = transformer_pairs(names, layout, config)
    skipped = transformer_skipped(layout, files)
    return _part(
        "transformer", layout, size_name(config), files, names, pairs, skipped, config.depth, config.width
    )


def _controlnet(source: ModelSource) -> PartDescription:
    files, layout, config, order = open_controlnet(source)
    names = empty(partial(ControlNet, config, order), source).state_dict()
    pairs, skipped = controlnet_pairs(names, layout), controlnet_skipped(files.infos, names, layout)
    hint = hint_of(source.path)
    size = f"{config.depth} copies for {steered_name(config)}" + (f", trained on {hint}" if hint else "")
    return _part("controlnet", layout, size, files, names, pairs, skipped, config.depth, config.width)


def _autoencoder(source: ModelSource) -> PartDescription:
    if found := open_video_vae(source):
        return _part(KIND, found.layout, found.name, found.files, found.names, found.pairs, found.skipped)
    files, layout, config = open_autoencoder(source)
    names = empty(partial(DCAE, config), source).state_dict()
    size = f"DC-AE f{config.compression}c{config.latent_channels}"
    return _part("autoencoder", layout, size, files, names, autoencoder_pairs(files.infos, layout), ())


def _text_encoder(source: ModelSource) -> PartDescription:
    files, config = open_text_encoder(source)
    names = empty(partial(Gemma2, config), source, stored_plan(source, "text_encoder")).state_dict()
    pairs = text_encoder_pairs(files)
    size = "Gemma-2-2B" if (config.depth, config.width) == (26, 2304) else "Gemma 2, unreleased size"
    return _part(
        "text_encoder", "diffusers", size, files, names, pairs, TEXT_SKIPPED, config.depth, config.width
    )


def _part(
    kind: str,
    layout: str,
    size: str,
    files: TensorFiles,
    names: Iterable[str] = (),
    pairs: Pairs = (),
    skipped: Iterable[str] = (),
    depth: int = 0,
    width: int = 0,
) -> PartDescription:
    """Count a checkpoint and compare its names with the module's, where there is one."""
    names, skipped = list(names), set(skipped)
    missing, unexpected = differences(names, files, pairs, skipped) if names else ([], [])
    return PartDescription(
        kind=kind,
        layout=layout,
        size=size,
        parameters=sum(info.size for name, info in files.infos.items() if name not in skipped),
        dtype=files.dtype,
        bytes=sum(path.stat().st_size for path in files.paths),
        depth=depth,
        width=width,
        missing=tuple(missing),
        unexpected=tuple(unexpected),
    )
