"""The layouts of SANA-Streaming's transformer: official names and sizes, and a folder with config.json.

Only NVlabs/Sana's own code has this model; the class in our config.json is ours. A folder keeps the official
names of tensors. Shapes tell all but the heads of attention to text, the variant too: weights that see whole
clips have plain matrices for the queries and keys of softmax attention, weights that stream several taps.
Source: NVlabs/Sana's V2V models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.streaming.config import (
    SANA_STREAMING_2B,
    SANA_STREAMING_2B_BIDIRECTIONAL,
    SanaStreamingConfig,
)
from sanakit.weights.layouts.fields import SANA_STREAMING, check_fields
from sanakit.weights.layouts.shapes import Shapes
from sanakit.weights.read.disk import AGAIN
from sanakit.weights.read.header import TensorInfo

CLASS = "SanaStreamingTransformer3DModel"  # in config.json
_CROSS_HEADS = {SANA_STREAMING_2B.width: SANA_STREAMING_2B.cross_heads}  # shapes do not tell them
_NAMES = {
    SANA_STREAMING_2B: "SANA-Streaming 2B 720p",
    SANA_STREAMING_2B_BIDIRECTIONAL: "SANA-Streaming 2B 720p, whole clips",
}


def size_name(config: SanaStreamingConfig) -> str:
    """Return the name of a released size, or "unreleased size"."""
    return _NAMES.get(config, "unreleased size")


def is_streaming(infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether tensors are of a transformer that edits clips: queries and keys have own matrices."""
    return any(re.fullmatch(r"blocks\.\d+\.attn\.q\.weight", name) for name in infos)


def read_config(config: dict[str, Any], where: str) -> SanaStreamingConfig:
    """Read a config.json of ours; absent fields are those of the 2B size. Raises WeightsError."""
    check_fields(config, SANA_STREAMING, where)
    known = {field.name for field in fields(SanaStreamingConfig)}
    if unknown := sorted(name for name in set(config) - known if not name.startswith("_")):
        raise WeightsError(f"{where} has an unknown {unknown[0]}: it must be {', '.join(sorted(known))}.")
    try:
        return replace(SANA_STREAMING_2B, **{name: config[name] for name in known & set(config)})
    except SettingsError as error:
        raise WeightsError(
            f"{where} does not describe a SANA-Streaming transformer ({error}) {AGAIN}"
        ) from None


def write_config(config: SanaStreamingConfig) -> dict[str, Any]:
    """Return the config.json of a transformer: its class, and all that is not as in the 2B size."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    usual = {field.name: getattr(SANA_STREAMING_2B, field.name) for field in fields(config)}
    always = ("depth", "width", "cross_heads", "head_dim", "latent_channels", "text_width", "variant")
    told = {name: value for name, value in values.items() if name in always or value != usual[name]}
    return {"_class_name": CLASS, **told}


def recognise_config(infos: Mapping[str, TensorInfo], *, where: str) -> SanaStreamingConfig:
    """Read the size of a SANA-Streaming transformer off its tensors' names and shapes.

    Raises WeightsError when the tensors are not of one, or of an unknown width.
    """

    shapes = Shapes(infos, "SANA-Streaming", where)
    need = shapes.need
    width, channels, *patch = need("x_embedder.proj.weight", 5)
    outputs = need("final_layer.linear.weight", 2)[0]
    if patch != [1, 1, 1] or channels != 2 * outputs:
        raise WeightsError(
            f"{where} makes {outputs} channels of {channels}, in patches of {'x'.join(map(str, patch))}: "
            "SANA-Streaming takes twice the channels that it gives, and 1x1x1 latents. Use one."
        )
    if width not in _CROSS_HEADS:
        raise WeightsError(
            f"{where} has width {width}; the released size has {SANA_STREAMING_2B.width}. Shapes do not tell "
            "its number of heads: load it from a folder, whose config.json does."
        )
    blocks, delta = shapes.blocks("scale_shift_table"), shapes.blocks("attn.A_log")
    depth, softmax = max(blocks, default=0) + 1, tuple(sorted(blocks - delta))
    if not delta:
        raise WeightsError(f"{where} has no block with gated delta attention; the released one has. Use it.")
    taps = infos[f"blocks.{softmax[0]}.attn.q.weight"].shape[2:] if softmax else (3,)
    config = replace(
        SANA_STREAMING_2B,
        depth=depth,
        cross_heads=_CROSS_HEADS[width],
        head_dim=width // need(f"blocks.{min(delta)}.attn.A_log", 1)[0],
        text_width=need("y_embedder.y_proj.fc1.weight", 2)[1],
        latent_channels=outputs,
        mlp_ratio=need("blocks.0.mlp.point_conv.conv.weight", 4)[1] / width,
        softmax_share=len(softmax) / depth,
        variant="streaming" if taps else "bidirectional",
        softmax_taps=taps[0] if taps else SANA_STREAMING_2B.softmax_taps,
    )
    if config.softmax_blocks != softmax:
        raise WeightsError(
            f"{where} has softmax attention in the blocks {', '.join(map(str, softmax))}; this code spreads "
            "them evenly, the last one among them. Load it from a folder with a config.json."
        )
    return config
