"""The official layouts: SANA `.pth` files and efficientvit's names for DC-AE.

The official transformer names are our own, so nothing is renamed; the size is read off the tensors' shapes.
Source: NVlabs/Sana checkpoints, the public conversion scripts of both models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, TypeVar

from sanakit.errors import WeightsError
from sanakit.models.sana import SanaConfig
from sanakit.weights.find.catalog import CatalogEntry
from sanakit.weights.layouts.diffusers import diffusers_names
from sanakit.weights.layouts.fields import SANA, Allowed, check_fields
from sanakit.weights.layouts.shapes import Shapes
from sanakit.weights.read.disk import in_words
from sanakit.weights.read.header import TensorInfo

Config = TypeVar("Config", bound=SanaConfig)

SKIPPED = {
    "y_embedder.y_embedding": "the learned null caption, used in training only",
    "pos_embed": "the stored position table, which is computed here",
    "logvar_linear.weight": "Sprint's training head",
    "logvar_linear.bias": "Sprint's training head",
}
CROSS_HEADS = {
    1152: 16,
    2240: 20,
}  # of the released widths: shapes do not show how a matrix is cut into heads
INTERPOLATION = {2048: 1.0, 4096: 2.0}  # pixels -> position_interpolation; smaller models have no positions
PIXELS_PER_LATENT = 32
CONFIG_KEY = "sanakit"  # beside `state_dict` in the files we write: the SanaConfig of unreleased sizes


def recognise_config(
    infos: Mapping[str, TensorInfo],
    *,
    layout: str = "official",
    metadata: Mapping[str, Any] | None = None,
    entry: CatalogEntry | None = None,
    where: str = "The file",
) -> SanaConfig:
    """Read the size and variant of a SANA transformer off its tensors' names and shapes.

    layout: "official" or "diffusers". metadata: the entry beside the state_dict; our own files keep the
    config there. entry: the release that the file's name speaks of; it tells what tensors do not: the time
    scale and, without a table of positions, the resolution.
    Raises WeightsError when the tensors are not a SANA transformer or of an unknown width.
    """
    if (saved := (metadata or {}).get(CONFIG_KEY)) is not None:
        return saved_config(saved, SanaConfig, SANA, where)

    def stored(name: str) -> str:
        return name if layout == "official" else diffusers_names(name, guidance_embed=False)[0]

    need = Shapes(infos, "SANA", where, stored).need
    width, channels, patch, _ = need("x_embedder.proj.weight", 4)
    if patch != 1:
        raise WeightsError(f"{where} has patches of {patch}x{patch} latents; the released models have 1x1.")
    if width not in CROSS_HEADS:
        raise WeightsError(
            f"{where} has width {width}; the released sizes have {', '.join(map(str, CROSS_HEADS))}. Shapes "
            "do not tell its number of heads: load it from a diffusers folder, whose config.json does."
        )
    hidden = need("blocks.0.mlp.point_conv.conv.weight", 4)[1]
    prefix = "blocks." if layout == "official" else "transformer_blocks."
    blocks = {int(m[1]) for name in infos if (m := re.match(re.escape(prefix) + r"(\d+)\.", name))}
    pixels = table_pixels(infos, layout) or (entry.width if entry else 1024)
    sprint = stored("cfg_embedder.mlp.0.weight") in infos
    config = SanaConfig(
        depth=max(blocks) + 1,
        width=width,
        cross_heads=CROSS_HEADS[width],
        text_width=need("y_embedder.y_proj.fc1.weight", 2)[1],
        latent_channels=channels,
        mlp_ratio=hidden / width,
        qk_norm=stored("blocks.0.attn.q_norm.weight") in infos,
        guidance_embed=sprint,
        time_scale=1.0 if sprint else entry.time_scale if entry else 1000.0,  # Sprint was trained on t itself
        position_interpolation=INTERPOLATION.get(pixels),
        sample_size=pixels // PIXELS_PER_LATENT,
    )
    check_fields(asdict(config), SANA, where)
    return config


def autoencoder_renames(official_names: Iterable[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pair the parameters of an efficientvit DC-AE with their names in diffusers' AutoencoderDC (and ours).

    Queries, keys and values are one 1x1 convolution there and three matrices here.
    """
    pairs = []
    for official in official_names:
        name = official
        for pattern, ours in _AUTOENCODER:
            name = re.sub(pattern, ours, name)
        if name.endswith(".qkv.conv.weight"):
            stem = name.removesuffix("qkv.conv.weight")
            pairs.append(((official,), tuple(f"{stem}to_{part}.weight" for part in "qkv")))
        else:
            pairs.append(((official,), (name,)))
    return pairs


# efficientvit -> diffusers, applied in this order.
_AUTOENCODER = (
    (r"\bmain\.", ""),
    (r"\bop_list\.", ""),
    (r"\bcontext_module\b", "attn"),
    (r"\blocal_module\b", "conv_out"),
    (r"\baggreg\.(\d+)\.0\b", r"to_qkv_multiscale.\1.proj_in"),
    (r"\baggreg\.(\d+)\.1\b", r"to_qkv_multiscale.\1.proj_out"),
    (r"\b(depth|inverted|point)_conv\.conv\b", r"conv_\1"),
    (r"\bpoint_conv\.norm\b", "norm"),
    (r"\bconv(1|2)\.conv\b", r"conv\1"),
    (r"\bconv2\.norm\b", "norm"),
    (r"\bproj\.conv\b", "to_out"),
    (r"\bproj\.norm\b", "norm_out"),
    (r"\bconv\.conv\b", "conv"),  # the up and down steps wrap their convolution once more
    (r"^encoder\.project_in\.conv\b", "encoder.conv_in"),
    (r"^encoder\.project_out\.0\.conv\b", "encoder.conv_out"),
    (r"^encoder\.stages\b", "encoder.down_blocks"),
    (r"^decoder\.project_in\.conv\b", "decoder.conv_in"),
    (r"^decoder\.project_out\.0\b", "decoder.norm_out"),
    (r"^decoder\.project_out\.2\.conv\b", "decoder.conv_out"),
    (r"^decoder\.stages\b", "decoder.up_blocks"),
)


def table_pixels(infos: Mapping[str, TensorInfo], layout: str = "official") -> int | None:
    """Return the side of a transformer's training images, by its stored position table; None without one."""
    table = infos.get("pos_embed" if layout == "official" else "patch_embed.pos_embed")  # 1 N D
    if table is None or len(table.shape) != 3:
        return None
    side = math.isqrt(table.shape[1])  # one row per latent of the training size
    return side * PIXELS_PER_LATENT if side and side**2 == table.shape[1] else None


def saved_config(saved: Any, kind: type[Config], allowed: Mapping[str, Allowed], where: str) -> Config:
    """Return the config of that kind that our own files hold. Raises WeightsError when it is none."""
    said = f"{where}, under {CONFIG_KEY!r} beside its tensors,"
    if not isinstance(saved, dict):
        raise WeightsError(f"{said} holds {in_words(saved)} where the model's sizes are expected.")
    known = {field.name: field.default is MISSING for field in fields(kind)}
    if lacking := [name for name, needed in known.items() if needed and name not in saved]:
        raise WeightsError(
            f"{said} describes a model without its {', '.join(lacking)}: save it again, or load it from a "
            "diffusers folder."
        )
    check_fields(saved, allowed, said)
    try:
        return kind(**{name: value for name, value in saved.items() if name in known})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{said} describes sizes that do not go together: {error}") from None
