"""ControlNets: bytes into modules and back; the models whose folder or file has one.

Sources: diffusers' SanaControlNetModel folders, alone or in a SanaControlNetPipeline's; official .pth files,
which hold the model that is steered, too; and what training writes, in the same two layouts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch

from sanakit.errors import SettingsError, WeightsError
from sanakit.images.hints import HINT_KINDS, HintKind
from sanakit.models.controlnet import ControlNet, Order, check_sizes
from sanakit.models.sana import Embedders, Sana, SanaConfig, has_blocks
from sanakit.quant.plans import find_plan
from sanakit.quant.quantize import quantize
from sanakit.weights.find.resolve import INDEX, ModelSource, kind_words, open_network, recognised, resolve
from sanakit.weights.fingerprint import first_digits, told_apart
from sanakit.weights.layouts.controlnet import (
    HINT,
    controlnet_pairs,
    controlnet_skipped,
    diffusers_names,
    metadata_of,
    order_of,
    read_config,
    recognise_controlnet,
    write_config,
)
from sanakit.weights.layouts.fill import fill
from sanakit.weights.layouts.parts import empty, transformer_config
from sanakit.weights.precision import choose_dtype, parse_dtype
from sanakit.weights.read.disk import read_json
from sanakit.weights.read.files import TensorFiles, open_component
from sanakit.weights.read.header import write_safetensors
from sanakit.weights.read.mapping import release
from sanakit.weights.save import WEIGHTS, check_floats, exported, write_json
from sanakit.weights.settings import precision_rule

StrPath = str | os.PathLike[str]
PART = "controlnet"  # folder of a pipeline
BEHIND_EMBEDDERS = ("blocks.", "final_layer.")  # names of a transformer's other tensors


class ControlFile:
    """A ControlNet's file or folder, opened and recognised by its headers; `load_controlnet` reads it.

    path: as for that. Raises ModelNotFoundError or WeightsError.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = path
        self.config = open_controlnet(resolve(path, (PART,)))[2]
        self.hint: HintKind = cast(HintKind, hint_of(path) or "as-is")  # the kind that it was trained on

    @cached_property
    def fingerprint(self) -> str:
        """The first digits of the hash of its weights."""
        return first_digits(self.path, PART)

    def fits(self, base: SanaConfig) -> bool:
        """Return whether it can steer a model of these sizes."""
        try:
            check_sizes(self.config, base)
        except SettingsError:
            return False
        return True


def load_controlnet(
    path: StrPath,
    *,
    order: Order | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> ControlNet:
    """Load a ControlNet, ready for inference or training.

    path: a SanaControlNetModel's or SanaControlNetPipeline's folder, an official .pth, or Hub
    "organisation/name". order: to compute in; None: the one that it was trained in, as far as its files tell:
    official files native, diffusers' folders as diffusers does. dtype: to compute in, that of the model it
    steers; None chooses, as for `load_transformer`. mapped, home: as for that. plan: quantise the copies by
    this plan of `quant.plans.PLANS`.
    Raises ModelNotFoundError, WeightsError, PrecisionError, or SettingsError for `mapped` elsewhere.
    """
    source = resolve(path, (PART,))
    files, layout, config, trained = open_controlnet(source)
    for note in files.notes:
        warnings.warn(note, stacklevel=2)
    rule = precision_rule(source, files.dtype)
    dtype = choose_dtype(device, files.dtype, dtype or "auto", rule=rule, what="The ControlNet")
    module = empty(partial(ControlNet, config, order or trained), source)
    pairs = controlnet_pairs(module.state_dict(), layout)
    skipped = controlnet_skipped(files.infos, module.state_dict(), layout)
    fill(module, files, pairs, skipped=skipped, device=home or device, dtype=dtype, mapped=mapped)
    module.label = controlnet_label(path)
    if plan is not None:
        quantize(module, find_plan(plan), release)
    return module


def controlnet_label(path: StrPath) -> str:
    """Return "name@hash" of a ControlNet's weights, as images record it. Raises as `load_controlnet`.

    The name is the last part of its path or repository.
    """
    return f"{told_apart(path).replace(';', ' ')}@{first_digits(path, PART)}"


def open_controlnet(source: ModelSource) -> tuple[TensorFiles, str, SanaConfig, Order]:
    """Return a ControlNet's tensors, layout, config and order; nothing but headers is read.

    Raises WeightsError for a source without one.
    """
    if not source.is_file:
        folder = source.part(PART, "ControlNet")
        files = open_component(folder, source.variant)
        recognised(files)
        told = read_json(folder / "config.json")
        return (
            files,
            "diffusers",
            read_config(told, str(folder / "config.json")),
            order_of(told, "diffusers", folder / "config.json"),
        )
    files, kind, layout = open_network(source.path)
    if kind != "controlnet":
        raise WeightsError(
            f"{source.path} holds {kind_words(kind)}, not a ControlNet: use the file or folder of one."
        )
    beside = source.path.parent / "config.json"
    if layout == "diffusers" and beside.is_file() and "ControlNet" in str(read_json(beside)["_class_name"]):
        told = read_json(beside)
        return files, layout, read_config(told, str(beside)), order_of(told, layout, beside)
    config = recognise_controlnet(
        files.infos, layout, metadata=files.metadata, entry=source.entry, where=str(source.path)
    )
    return files, layout, config, order_of(files.metadata, layout, source.path)


def controlnets_of(model: StrPath, given: StrPath | Sequence[StrPath] | None = None) -> list[StrPath]:
    """Return where the ControlNets for a model lie: those given, else the model's own, if it has one.

    Only headers are read. Raises ModelNotFoundError or WeightsError.
    """
    if given is not None:
        return [given] if isinstance(given, str | os.PathLike) else list(given)
    source = resolve(model, ("transformer",))
    if source.is_file:
        return [model] if open_network(source.path)[1] == "controlnet" else []
    return [model] if source.is_pipeline and PART in read_json(source.path / INDEX) else []


def controlnets_for(model: StrPath, given: StrPath | None = None) -> dict[StrPath, str]:
    """Return where the ControlNets of `controlnets_of` lie, and "name@hash" of each.

    Only headers and samples of weights are read. Raises SettingsError for one that does not fit the model.
    """
    paths = controlnets_of(model, given)
    for path in paths:
        source = resolve(model, ("transformer",))
        if source.runtime:
            raise SettingsError("A ControlNet cannot steer graphs: use the original model.")
        check_sizes(ControlFile(path).config, transformer_config(source))
    return {path: controlnet_label(path) for path in paths}


def hint_of(path: StrPath) -> str:
    """Return the kind of hints that a ControlNet's folder says it was trained on; "" where it says none.

    Raises WeightsError for a kind that does not exist.
    """
    source = resolve(path, (PART,))
    folder = source.path / PART if source.is_pipeline else source.path
    config = folder / "config.json"
    kind = "" if source.is_file or not config.is_file() else read_json(config).get(HINT, "")
    if kind not in ("", *HINT_KINDS):
        raise WeightsError(f"{config} says {HINT} = {kind!r}; it must be {' or '.join(HINT_KINDS)}.")
    return str(kind)


def is_controlnet(path: StrPath) -> bool:
    """Return whether a file or folder is of a ControlNet rather than of a whole pipeline."""
    source = resolve(path, (PART,))
    if source.is_file:
        return open_network(source.path)[1] == "controlnet"
    config = source.path / "config.json"
    return not source.is_pipeline and "ControlNet" in str(read_json(config).get("_class_name"))


def load_controlnets(
    model: StrPath,
    given: StrPath | Sequence[StrPath] | None,
    transformer: Sana,
    *,
    device: str | torch.device,
    mapped: bool,
    home: str | torch.device,
    plan: str | None,
) -> list[ControlNet]:
    """Return the ControlNets of `controlnets_of`, in the transformer's dtype; all else as `load_controlnet`.

    Raises SettingsError for one that does not fit the transformer, or if that runs as a graph.
    """
    paths = controlnets_of(model, given)
    if paths and not has_blocks(transformer):
        raise SettingsError("A ControlNet cannot steer graphs: use the original model.")
    nets = [
        load_controlnet(path, device=device, dtype=transformer.dtype, mapped=mapped, home=home, plan=plan)
        for path in paths
    ]
    for net in nets:
        net.check_fits(transformer.config)
    return nets


def save_controlnet(
    folder: StrPath,
    net: ControlNet,
    base: Embedders | None = None,
    *,
    order: Order | None = None,
    hint: str = "",
    dtype: torch.dtype | str = "float32",
) -> Path:
    """Write a ControlNet as a folder in the layout of diffusers' SanaControlNetModel, whole or not at all.

    base: the model that it steers, whose embedders diffusers' layout repeats; for a ControlNet in the native
    order. order: that it was trained in, which the folder tells us; None: the one it computes in.
    hint: the kind of hints that it was trained on, which the folder tells, too.
    diffusers computes it in its own order, whatever it was trained in. It cannot open one for models with
    norms of queries and keys (SANA-1.5, Sprint, pocket): those folders have a class of ours.
    Returns the folder. Raises OutputError, or SettingsError without the base and for quantised layers.
    """
    check_floats(net)
    embedders = base if net.own is None else net.own
    if embedders is None:
        raise SettingsError(
            "A ControlNet in the native order shares the embedders of its model: pass that as `base`, too."
        )
    known = embedders.state_dict().items()
    state = {f"own.{name}": tensor for name, tensor in known if not name.startswith(BEHIND_EMBEDDERS)}
    state |= {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("own.")}
    renamed = {}
    for name, tensor in state.items():
        theirs = diffusers_names(name)
        renamed |= zip(theirs, tensor.chunk(len(theirs)), strict=True)
    path = Path(folder).expanduser()
    with exported(path) as partial_folder:
        write_json(partial_folder / "config.json", write_config(net.config, order or net.order, hint))
        write_safetensors(partial_folder / WEIGHTS, renamed, parse_dtype(dtype))
    return path


def save_official_controlnet(
    path: StrPath, net: ControlNet, *, dtype: torch.dtype | str | None = None
) -> Path:
    """Write a ControlNet alone as a .pth in the official names, with its sizes and order beside them.

    dtype: to store in; None: the tensors' own. Raises OutputError, or SettingsError for quantised layers.
    """
    check_floats(net)
    path = Path(path).expanduser()
    state = {}
    for name, tensor in net.state_dict().items():
        kept = tensor.detach().cpu().contiguous()
        state[name.removeprefix("own.")] = kept if dtype is None else kept.to(parse_dtype(dtype))
    with exported(path) as partial_file:
        torch.save({"state_dict": state, **metadata_of(net)}, partial_file)
    return path
