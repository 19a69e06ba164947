"""The layouts of SANA-Video's transformer: names, sizes and config.json, official and diffusers'.

Names are SANA's (`layouts/official.py`, `layouts/diffusers.py`), but for the patches and the convolution over
time. An official .pth of LongSANA has the tensors of SANA-Video; its name, or a trainer's nesting, tells it.
Source: the public conversion script; names and fields checked against SanaVideoTransformer3DModel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.video.sana_video import (
    SANA_VIDEO_2B_480P,
    SANA_VIDEO_2B_720P,
    SANA_VIDEO_600M,
    SANA_VIDEO_4000M,
    SanaVideoConfig,
)
from sanakit.weights.layouts import diffusers
from sanakit.weights.layouts.fields import VIDEO_TRANSFORMER, check_fields
from sanakit.weights.layouts.shapes import Shapes
from sanakit.weights.read.disk import AGAIN
from sanakit.weights.read.header import TensorInfo
from sanakit.weights.read.pickled import NESTS

CLASS, CAUSAL = "SanaVideoTransformer3DModel", "SanaVideoCausalTransformer3DModel"  # in config.json
_CAUSAL_NAMES = re.compile("LongLive|LongSANA", re.IGNORECASE)
_RENAMED = {  # ours -> diffusers'; all else as for images
    r"x_embedder\.proj\.": "patch_embedding.",
    r"blocks\.(\d+)\.mlp\.t_conv\.": r"transformer_blocks.\1.ff.conv_temp.",
}
_DEFAULTS = {  # of diffusers' class, where they are not SanaTransformer2DModel's
    "in_channels": 16,
    "num_attention_heads": 20,
    "attention_head_dim": 112,
    "sample_size": 30,
    "qk_norm": "rms_norm_across_heads",
}
_HEADS = {size.width: size for size in (SANA_VIDEO_600M, SANA_VIDEO_2B_480P, SANA_VIDEO_4000M)}
_NAMES = {
    (SANA_VIDEO_2B_480P, False): "SANA-Video 2B 480p",
    (SANA_VIDEO_2B_480P, True): "LongSANA 2B 480p",
    (SANA_VIDEO_2B_720P, False): "SANA-Video 2B 720p",
}


def diffusers_names(official: str) -> tuple[str, ...]:
    """Return the diffusers name of an official parameter; several where diffusers splits it.

    >>> diffusers_names("blocks.3.mlp.t_conv.weight")
    ('transformer_blocks.3.ff.conv_temp.weight',)
    """
    for ours, theirs in _RENAMED.items():
        if re.match(ours, official):
            return (re.sub(f"^{ours}", theirs, official),)
    return diffusers.diffusers_names(official, guidance_embed=False)


def renames(official_names: Iterable[str]) -> list[diffusers.Rename]:
    """Pair each official parameter with its diffusers names, in the given order."""
    return [((name,), diffusers_names(name)) for name in official_names]


def size_name(config: SanaVideoConfig) -> str:
    """Return the name of a released size, or "unreleased size"."""
    return _NAMES.get((replace(config, causal=False), config.causal), "unreleased size")


def is_video(infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether tensors, in either layout, are of a transformer that mixes frames over time."""
    return any(re.search(r"blocks\.\d+\.(mlp\.t_conv|ff\.conv_temp)\.weight$", name) for name in infos)


def read_config(config: dict[str, Any], where: str) -> SanaVideoConfig:
    """Read a SanaVideoTransformer3DModel's config.json; absent fields have diffusers' defaults.

    Raises WeightsError when a field describes an architecture that this code does not have.
    """
    check_fields(config, VIDEO_TRANSFORMER, where)
    over_time, patch, other = config.get("patch_size", [1, 2, 2])
    if over_time != 1 or patch != other:
        raise WeightsError(
            f"{where} has patch_size = {config['patch_size']} where SANA-Video has 1 frame and as many "
            "rows as columns: it is another architecture. Use a SANA-Video model."
        )
    # diffusers' class takes `interpolation_scale` and does nothing with it.
    shared = {**_DEFAULTS, **config, "patch_size": 1, "interpolation_scale": None}
    size = diffusers.read_sana_config(shared, where)
    try:
        return SanaVideoConfig(
            **asdict(size),
            patch=patch,
            max_positions=config.get("rope_max_seq_len", 1024),
            causal=config.get("_class_name") == CAUSAL,
        )
    except SettingsError as error:
        raise WeightsError(f"{where} does not describe a SANA-Video transformer ({error}) {AGAIN}") from None


def write_config(config: SanaVideoConfig) -> dict[str, Any]:
    """Return the config.json from which diffusers builds the same transformer.

    The class that LongSANA's folders are published with is unknown to diffusers 0.42.
    """
    written = diffusers.write_sana_config(config)
    del written["timestep_scale"]  # no argument of that class
    return {
        **written,
        "_class_name": CAUSAL if config.causal else CLASS,
        "_diffusers_version": "0.36.0",
        "patch_size": [1, config.patch, config.patch],
        "rope_max_seq_len": config.max_positions,
    }


def recognise_config(
    infos: Mapping[str, TensorInfo], *, layout: str, metadata: Mapping[str, Any], name: str, where: str
) -> SanaVideoConfig:
    """Read the size of a SANA-Video transformer off its tensors' names and shapes.

    layout: "official" or "diffusers". metadata: what a .pth file holds beside and around them. name: of the
    file; with a trainer's nesting it tells whether the weights are LongSANA's.
    Raises WeightsError when the tensors are not of one, or of an unknown width.
    """

    def stored(ours: str) -> str:
        return ours if layout == "official" else diffusers_names(ours)[0]

    need = Shapes(infos, "SANA-Video", where, stored).need
    width, channels, over_time, patch, other = need("x_embedder.proj.weight", 5)
    if over_time != 1 or patch != other:
        raise WeightsError(
            f"{where} has patches of {over_time}x{patch}x{other} latents; the released models have 1x1x1 or "
            "1x2x2. Use one of them."
        )
    if width not in _HEADS:
        raise WeightsError(
            f"{where} has width {width}; known sizes have {', '.join(map(str, _HEADS))}. Shapes do not tell "
            "its number of heads: load it from a diffusers folder, whose config.json does."
        )
    blocks = {
        int(found[1]) for ours in infos if (found := re.match(r"(?:transformer_)?blocks\.(\d+)\.", ours))
    }
    return replace(
        _HEADS[width],
        depth=max(blocks) + 1,
        text_width=need("y_embedder.y_proj.fc1.weight", 2)[1],
        latent_channels=channels,
        mlp_ratio=need("blocks.0.mlp.point_conv.conv.weight", 4)[1] / width,
        qk_norm=stored("blocks.0.attn.q_norm.weight") in infos,
        sample_size=(SANA_VIDEO_2B_480P if patch > 1 else SANA_VIDEO_2B_720P).sample_size,
        patch=patch,
        causal=NESTS[0] in metadata or _CAUSAL_NAMES.search(name) is not None,
    )
