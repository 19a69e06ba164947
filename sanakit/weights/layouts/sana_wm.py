"""The layouts of SANA-WM's transformer: names, sizes and config.json, official and diffusers'.

diffusers kept the official names, but for the embedder of times. Neither tensors nor its class tell the
variant: our config.json has it under "sanakit", which diffusers names and leaves out. Of an official file the
name tells it.
Source: names and fields checked against SanaWMTransformer3DModel of diffusers 0.42.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.world.config import SANA_WM_1600M, SanaWMConfig, Variant
from sanakit.weights.layouts.diffusers import Rename
from sanakit.weights.layouts.fields import SANA_WM, WORLD_TRANSFORMER, check_fields
from sanakit.weights.layouts.shapes import Shapes
from sanakit.weights.read.disk import AGAIN
from sanakit.weights.read.header import TensorInfo
from sanakit.weights.read.pickled import NESTS

CLASS = "SanaWMTransformer3DModel"  # in config.json
PIXELS = 32  # of the LTX-2 autoencoder, for each latent along a side
_OURS = "sanakit"  # the entry of config.json with what diffusers' class does not know
_TOLD = ("variant", "sink_chunks", "recent_chunks", "capped", "rounded")  # in that entry
_RENAMED = {"t_embedder.mlp.0.": "t_embedder.linear_1.", "t_embedder.mlp.2.": "t_embedder.linear_2."}
_CROSS_HEADS = {SANA_WM_1600M.width: SANA_WM_1600M.cross_heads}  # shapes do not tell them
# config.json fields that every released model has alike; another value is another architecture.
_FIXED: dict[str, Any] = {
    "patch_size": [1, 1, 1],
    "ffn_type": "GLUMBConvTemp",
    "t_kernel_size": 3,
    "k_conv_only": True,
    "pos_embed_type": "wan_rope",
    "qk_norm": True,
    "cross_norm": True,
    "y_norm": True,
    "cam_attn_compress": 1,
    "use_chunk_plucker_post_attn": True,
    "mlp_acts": ["silu", "silu", None],
    "use_pe": True,
    "learn_sigma": False,
    "pred_sigma": False,
}
# diffusers' class takes init_cam_from_base, fp32_attention and mixed_precision, and does nothing with them.
_NAMES: dict[Variant, str] = {
    "bidirectional": "SANA-WM 1.6B 720p",
    "chunk_causal": "SANA-WM 1.6B 720p, in chunks",
    "streaming": "SANA-WM 1.6B 720p, streaming",
}


def diffusers_name(official: str) -> str:
    """Return the diffusers name of an official parameter.

    >>> diffusers_name("t_embedder.mlp.2.bias")
    't_embedder.linear_2.bias'
    """
    for ours, theirs in _RENAMED.items():
        if official.startswith(ours):
            return theirs + official.removeprefix(ours)
    return official


def renames(official_names: Iterable[str]) -> list[Rename]:
    """Pair each official parameter with its diffusers name, in the given order."""
    return [((name,), (diffusers_name(name),)) for name in official_names]


def size_name(config: SanaWMConfig) -> str:
    """Return the name of a released size, or "unreleased size"."""
    released = replace(SANA_WM_1600M, **{name: getattr(config, name) for name in _TOLD})
    return _NAMES[config.variant] if config == released else "unreleased size"


def is_world(infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether tensors, in either layout, are of a transformer with a camera branch."""
    return any(re.fullmatch(r"blocks\.\d+\.attn\.q_proj_cam\.weight", name) for name in infos)


def read_config(config: dict[str, Any], where: str) -> SanaWMConfig:
    """Read a SanaWMTransformer3DModel's config.json; absent fields have diffusers' defaults.

    Raises WeightsError when a field describes an architecture that this code does not have.
    """
    check_fields(config, WORLD_TRANSFORMER, where)
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise WeightsError(
                f"{where} has {name} = {config[name]!r} where SANA-WM has {value!r}: it is another "
                "architecture. Use a SANA-WM model."
            )
    ours = config.get(_OURS, {})
    check_fields(ours, SANA_WM, f"{where}, in {_OURS},")
    if unknown := sorted(set(ours) - set(_TOLD)):
        raise WeightsError(
            f"{where}, in {_OURS}, has an unknown {unknown[0]}: it must be {', '.join(_TOLD)}."
        )
    depth, added = config.get("num_layers", 20), config.get("chunk_plucker_post_attn_blocks", 20)
    width, cross_heads = config.get("hidden_size", 2240), config.get("num_attention_heads", 20)
    try:
        return SanaWMConfig(
            depth=depth,
            width=width,
            cross_heads=cross_heads,
            head_dim=config.get("linear_head_dim", 112),
            text_width=config.get("caption_channels", 2304),
            latent_channels=config.get("in_channels", 128),
            mlp_ratio=config.get("mlp_ratio", 3.0),
            sample_size=max(1, config.get("image_size", 720) // PIXELS),
            softmax_every=config.get("softmax_every_n", 4),
            taps=config.get("conv_kernel_size", 4),
            plucker_channels=config.get("chunk_plucker_channels", 48),
            plucker_blocks=None if added < 0 or added >= depth else added,
            **ours,
        )
    except SettingsError as error:
        raise WeightsError(f"{where} does not describe a SANA-WM transformer ({error}) {AGAIN}") from None


def write_config(config: SanaWMConfig) -> dict[str, Any]:
    """Return the config.json from which diffusers builds the same transformer.

    Its class knows bidirectional weights with cut rays alone; where ours are others, it names what it leaves
    out.
    """
    told = {name: value for name, value in asdict(config).items() if name in _TOLD}
    usual = asdict(SANA_WM_1600M)
    ours = {name: value for name, value in told.items() if value != usual[name]}
    return {
        "_class_name": CLASS,
        "_diffusers_version": "0.42.1",
        "in_channels": config.latent_channels,
        "num_layers": config.depth,
        "hidden_size": config.width,
        "num_attention_heads": config.cross_heads,
        "linear_head_dim": config.head_dim,
        "softmax_every_n": config.softmax_every,
        "conv_kernel_size": config.taps,
        "chunk_plucker_channels": config.plucker_channels,
        "chunk_plucker_post_attn_blocks": -1 if config.plucker_blocks is None else config.plucker_blocks,
        "image_size": config.sample_size * PIXELS,
        "caption_channels": config.text_width,
        "mlp_ratio": config.mlp_ratio,
        **_FIXED,
        **({_OURS: ours} if ours else {}),
    }


def recognise_config(
    infos: Mapping[str, TensorInfo], *, metadata: Mapping[str, Any], name: str, where: str
) -> SanaWMConfig:
    """Read the size of a SANA-WM transformer off its tensors' names and shapes, in either layout.

    metadata: what a .pth file holds beside and around them. name: of the file; with a trainer's nesting it
    tells the variant. Raises WeightsError when the tensors are not of one, or of an unknown width.
    """

    shapes = Shapes(infos, "SANA-WM", where)
    need = shapes.need
    width, channels, *patch = need("x_embedder.proj.weight", 5)
    if patch != [1, 1, 1]:
        sides = "x".join(map(str, patch))
        raise WeightsError(f"{where} has patches of {sides} latents; the released model has 1x1x1. Use it.")
    if width not in _CROSS_HEADS:
        raise WeightsError(
            f"{where} has width {width}; the released size has {SANA_WM_1600M.width}. Shapes do not tell its "
            "number of heads: load it from a diffusers folder, whose config.json does."
        )
    blocks, delta = shapes.blocks("attn.A_log"), shapes.blocks("attn.conv_k.weight")
    softmax, added = sorted(blocks - delta), shapes.blocks("plucker_proj.weight")
    return replace(
        SANA_WM_1600M,
        depth=max(blocks, default=0) + 1,
        cross_heads=_CROSS_HEADS[width],
        head_dim=width // need("blocks.0.attn.A_log", 1)[0],
        text_width=need("y_embedder.y_proj.fc1.weight", 2)[1],
        latent_channels=channels,
        mlp_ratio=need("blocks.0.mlp.point_conv.conv.weight", 4)[1] / width,
        softmax_every=softmax[0] + 1 if softmax else 0,
        taps=need(f"blocks.{min(delta, default=0)}.attn.conv_k.weight", 3)[2],
        plucker_channels=need("plucker_embedder.proj.weight", 5)[1],
        plucker_blocks=None if added == blocks else len(added),
        variant=_variant(metadata, name),
    )


def _variant(metadata: Mapping[str, Any], name: str) -> Variant:
    """Return what a file's name, or its trainer's nesting, tells of its weights."""
    if re.search(r"chunk[-_]?causal", name, re.IGNORECASE):
        return "chunk_causal"
    streams = NESTS[0] in metadata or re.search("stream", name, re.IGNORECASE)
    return "streaming" if streams else "bidirectional"
