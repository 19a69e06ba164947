"""The layouts of SANA-Video 2.0's transformer: official names and sizes, and a folder with config.json.

diffusers 0.42 has no class for it. The one class of the name in our config.json is sglang's, which kept the
official names of tensors; the fields are its own. Shapes tell all sizes but the heads of attention to text,
and of the blocks with softmax attention.
Source: NVlabs/Sana's sana_video2.py; fields checked against sglang 0.5.23's SanaVideo2ArchConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.video.sana_video2 import SANA_VIDEO2_5B, SANA_VIDEO2_14B, SanaVideo2Config
from sanakit.weights.layouts.fields import VIDEO2_TRANSFORMER, check_fields
from sanakit.weights.layouts.shapes import Shapes
from sanakit.weights.read.disk import AGAIN
from sanakit.weights.read.header import TensorInfo

CLASS = "SanaVideo2Transformer3DModel"  # in config.json
_SIZES = {size.width: size for size in (SANA_VIDEO2_5B, SANA_VIDEO2_14B)}
_NAMES = {SANA_VIDEO2_5B: "SANA-Video 2.0 5B", SANA_VIDEO2_14B: "SANA-Video 2.0 14B"}
# config.json fields that every released model has alike; another value is another architecture.
_FIXED: dict[str, Any] = {
    "patch_size": [1, 1, 1],
    "qk_norm": True,
    "cross_norm": True,
    "y_norm": True,
    "norm_eps": 1e-5,
    "timestep_norm_scale_factor": 1.0,
}


def size_name(config: SanaVideo2Config) -> str:
    """Return the name of a released size, or "unreleased size"."""
    return _NAMES.get(config, "unreleased size")


def is_video2(infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether tensors are of a transformer whose blocks attend over depth."""
    return "attn_res.attn_proj.weight" in infos


def read_config(config: dict[str, Any], where: str) -> SanaVideo2Config:
    """Read a SanaVideo2Transformer3DModel's config.json; absent fields are those of the 5B size.

    Raises WeightsError when a field describes an architecture that this code does not have.
    """
    check_fields(config, VIDEO2_TRANSFORMER, where)
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise WeightsError(
                f"{where} has {name} = {config[name]!r} where SANA-Video 2.0 has {value!r}: it is another "
                "architecture. Use a SANA-Video 2.0 model."
            )
    usual = SANA_VIDEO2_5B
    try:
        return SanaVideo2Config(
            depth=config.get("depth", usual.depth),
            width=config.get("hidden_size", usual.width),
            cross_heads=config.get("num_heads", usual.cross_heads),
            head_dim=config.get("linear_head_dim", usual.head_dim),
            softmax_head_dim=config.get("softmax_head_dim", usual.softmax_head_dim),
            text_width=config.get("caption_channels", usual.text_width),
            latent_channels=config.get("in_channels", usual.latent_channels),
            mlp_ratio=config.get("mlp_ratio", usual.mlp_ratio),
            softmax_share=config.get("softmax_ratio", usual.softmax_share),
            group=config.get("attn_res_block_size", usual.group),
            sample_size=config.get("sample_size", usual.sample_size),
        )
    except SettingsError as error:
        raise WeightsError(
            f"{where} does not describe a SANA-Video 2.0 transformer ({error}) {AGAIN}"
        ) from None


def write_config(config: SanaVideo2Config) -> dict[str, Any]:
    """Return the config.json of a transformer. sample_size is ours; sglang's class has no such field."""
    return {
        "_class_name": CLASS,
        "in_channels": config.latent_channels,
        "hidden_size": config.width,
        "depth": config.depth,
        "num_heads": config.cross_heads,
        "linear_head_dim": config.head_dim,
        "softmax_head_dim": config.softmax_head_dim,
        "softmax_ratio": config.softmax_share,
        "mlp_ratio": config.mlp_ratio,
        "caption_channels": config.text_width,
        "attn_res_block_size": config.group,
        "sample_size": config.sample_size,
        **_FIXED,
    }


def recognise_config(infos: Mapping[str, TensorInfo], *, where: str) -> SanaVideo2Config:
    """Read the size of a SANA-Video 2.0 transformer off its tensors' names and shapes.

    Raises WeightsError when the tensors are not of one, or of an unknown width.
    """

    shapes = Shapes(infos, "SANA-Video 2.0", where)
    need = shapes.need
    width, channels, *patch = need("x_embedder.proj.weight", 5)
    if patch != [1, 1, 1]:
        sides = "x".join(map(str, patch))
        raise WeightsError(f"{where} has patches of {sides} latents; released models have 1x1x1. Use one.")
    if width not in _SIZES:
        raise WeightsError(
            f"{where} has width {width}; released sizes have {', '.join(map(str, _SIZES))}. Shapes do not "
            "tell its number of heads: load it from a folder, whose config.json does."
        )
    blocks, linear = shapes.blocks("scale_shift_table"), shapes.blocks("attn.o_norm.weight")
    depth, softmax = max(blocks, default=0) + 1, tuple(sorted(blocks - linear))
    if not linear:
        raise WeightsError(f"{where} has no block with linear attention; released models have. Use one.")
    config = replace(
        _SIZES[width],
        depth=depth,
        head_dim=need(f"blocks.{min(linear)}.attn.o_norm.weight", 1)[0],
        text_width=need("y_embedder.y_proj.fc1.weight", 2)[1],
        latent_channels=channels,
        mlp_ratio=need("blocks.0.mlp.gate_proj.weight", 2)[0] / width,
        softmax_share=len(softmax) / depth or 1 / depth,
    )
    if config.softmax_blocks != softmax:
        raise WeightsError(
            f"{where} has softmax attention in the blocks {', '.join(map(str, softmax)) or 'of none'}; this "
            "code spreads them evenly, the last one among them. Load it from a folder with a config.json."
        )
    return config
