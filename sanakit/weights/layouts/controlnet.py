"""The layouts of a ControlNet: names, sizes and what is left out, of official files and diffusers' folders.

An official .pth holds the model that is steered, too. A folder of diffusers' SanaControlNetModel holds copies
of the model's embedders. Both hold all that either order of `models/controlnet.py` needs.
Source: the public conversion script; names and fields checked against SanaControlNetModel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from sanakit.errors import WeightsError
from sanakit.models.controlnet import COPIES, ControlNet, Order
from sanakit.models.sana import Embedders, SanaConfig
from sanakit.weights.find.catalog import CatalogEntry
from sanakit.weights.find.resolve import COPIES as COPIED
from sanakit.weights.layouts import diffusers, official
from sanakit.weights.layouts.fields import TRANSFORMER, check_fields
from sanakit.weights.read.header import TensorInfo

CLASS = "SanaControlNetModel"
OURS = "SanakitControlNet"  # the class of folders in the same names that diffusers cannot compute
ORDER = "control_order"  # key of config.json, and beside a .pth's state_dict: the order it was trained in
HINT = "control_hint"  # key of config.json: the kind of hints that it was trained on
ORDERS: tuple[Order, ...] = ("native", "diffusers")
_BLOCK = ".copied_block."
_OWN = "own."  # before the embedders, in the module
_LAST_OF_COPY = r"controlnet\.\d+\.after_proj\.weight|controlnet_blocks\.\d+\.weight"
_PROJECTIONS = {"before_proj": "input_block", "after_proj": "controlnet_blocks.{number}"}


def controlnet_pairs(names: Iterable[str], layout: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pair the names in a file of this layout with the module's own `names`, as `fill` takes them."""
    return [
        ((_official(name),) if layout == "official" else diffusers_names(name), (name,)) for name in names
    ]


def diffusers_names(name: str) -> tuple[str, ...]:
    """Return diffusers' names of a ControlNet's parameter; several where it is split.

    >>> diffusers_names("controlnet.2.copied_block.cross_attn.kv_linear.bias")
    ('transformer_blocks.2.attn2.to_k.bias', 'transformer_blocks.2.attn2.to_v.bias')
    """
    if not name.startswith(COPIED):
        return diffusers.diffusers_names(_official(name), guidance_embed=False)
    number, inner = name.removeprefix(COPIED).split(".", 1)
    if inner.startswith(_BLOCK[1:]):
        block = f"blocks.{number}.{inner.removeprefix(_BLOCK[1:])}"
        return diffusers.diffusers_names(block, guidance_embed=False)
    projection, field = inner.split(".")
    return (f"{_PROJECTIONS[projection].format(number=number)}.{field}",)


def controlnet_skipped(infos: Iterable[str], names: Iterable[str], layout: str) -> dict[str, str]:
    """Return the tensors of a file that are left out of a ControlNet, each with the reason.

    names: of the module's parameters.
    """
    used = {theirs for sources, _ in controlnet_pairs(names, layout) for theirs in sources}
    fixed = official.SKIPPED if layout == "official" else diffusers.SKIPPED
    of_base = ("blocks.", "final_layer.") if layout == "official" else ()
    of_both = set(_embedder_names(layout))
    found = {name: reason for name, reason in fixed.items() if name not in used}
    for name in infos:
        if name.startswith(of_base) and of_base:
            found[name] = "of the model that is steered, which is loaded by itself"
        elif name in of_both - used:
            found[name] = "an embedder, of which the native order uses the model's own"
    return found


def copies_skipped(infos: Iterable[str]) -> dict[str, str]:
    """Return the tensors of a file that are left out of the model that a ControlNet in it steers."""
    return {name: "of a ControlNet, which is loaded by itself" for name in infos if name.startswith(COPIED)}


def recognise_controlnet(
    infos: Mapping[str, TensorInfo],
    layout: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    entry: CatalogEntry | None = None,
    where: str = "The file",
) -> SanaConfig:
    """Read the size of a ControlNet off its tensors: of the model that it steers, as deep as it has copies.

    All as for `official.recognise_config`. Raises WeightsError.
    """
    renamed: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        if layout == "official" and name.startswith(COPIED):
            renamed["blocks." + name.removeprefix(COPIED).replace(_BLOCK, ".", 1)] = info
        elif not name.startswith("blocks."):
            renamed[name] = info
    config = official.recognise_config(renamed, layout=layout, metadata=metadata, entry=entry, where=where)
    copies = sum(1 for name in infos if re.fullmatch(_LAST_OF_COPY, name))  # a stored depth is the model's
    return replace(config, depth=max(1, copies))


def read_config(config: dict[str, Any], where: str) -> SanaConfig:
    """Read a SanaControlNetModel's config.json, whose absent fields have defaults. Raises WeightsError."""
    check_fields(config, TRANSFORMER, where)
    return diffusers.read_sana_config({"num_layers": COPIES, **config}, where)


def order_of(told: Mapping[str, Any], layout: str, where: object) -> Order:
    """Return the order that a ControlNet was trained in: the told one, else its layout's.

    told: a config.json, or what lies beside a state_dict. Raises WeightsError.
    """
    order = told.get(ORDER, "native" if layout == "official" else "diffusers")
    if order not in ORDERS:
        raise WeightsError(f"{where} says {ORDER} = {order!r}; it must be {' or '.join(ORDERS)}.")
    return order


def write_config(config: SanaConfig, order: Order, hint: str = "") -> dict[str, Any]:
    """Return the config.json of a ControlNet's folder, which diffusers opens if `diffusers_computes` it."""
    written, theirs = diffusers.write_sana_config(config), diffusers_computes(config)
    for name in ("guidance_embeds", "guidance_embeds_scale", "qk_norm", "timestep_scale") if theirs else ():
        del written[name]  # SanaControlNetModel has no such arguments
    told = {} if order == "diffusers" else {ORDER: order}  # diffusers warns of a field that it does not know
    told |= {HINT: hint} if hint else {}
    return {**written, "_class_name": CLASS if theirs else OURS, **told}


def diffusers_computes(config: SanaConfig) -> bool:
    """Return whether diffusers' SanaControlNetModel has this architecture: no norms of queries and keys, no
    guidance embedding, and times of 0 to 1000."""
    return not config.qk_norm and not config.guidance_embed and config.time_scale == 1000.0


def metadata_of(net: ControlNet) -> dict[str, Any]:
    """Return what lies beside the state_dict of an official file that we write."""
    return {official.CONFIG_KEY: asdict(net.config), ORDER: net.order}


def _official(name: str) -> str:
    return name.removeprefix(_OWN)


def _embedder_names(layout: str) -> list[str]:
    """Return the names of all parameters of embedders in a layout."""
    config = SanaConfig(depth=1, width=4, cross_heads=1, head_dim=4, text_width=4, guidance_embed=True)
    with torch.device("meta"):
        small = Embedders(config)
    pairs = controlnet_pairs([f"{_OWN}{name}" for name in small.state_dict()], layout)
    return [name for sources, _ in pairs for name in sources]
