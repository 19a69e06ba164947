"""The diffusers layout of the transformer: parameter names and config.json, both ways.

One table serves loading and saving. The official names are ours (`models/sana.py`). diffusers splits fused
tensors (queries, keys and values are rows of one matrix). So a rename is a pair of name tuples whose tensors,
concatenated by rows, are equal. Source: the public conversion script; names and fields checked against
SanaTransformer2DModel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sanakit.errors import WeightsError
from sanakit.models.sana import SanaConfig
from sanakit.weights.read.disk import AGAIN

Rename = tuple[tuple[str, ...], tuple[str, ...]]  # official names, diffusers names

# Modules (or bare parameters) outside the blocks. `{time}`: where the time embedder lies, `emb.` or nothing.
OUTER = {
    "x_embedder.proj": ("patch_embed.proj",),
    "y_embedder.y_proj.fc1": ("caption_projection.linear_1",),
    "y_embedder.y_proj.fc2": ("caption_projection.linear_2",),
    "attention_y_norm": ("caption_norm",),
    "t_embedder.mlp.0": ("time_embed.{time}timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_embed.{time}timestep_embedder.linear_2",),
    "cfg_embedder.mlp.0": ("time_embed.guidance_embedder.linear_1",),
    "cfg_embedder.mlp.2": ("time_embed.guidance_embedder.linear_2",),
    "t_block.1": ("time_embed.linear",),
    "final_layer.linear": ("proj_out",),
    "final_layer.scale_shift_table": ("scale_shift_table",),
}
# Modules of block N: `blocks.N.` <-> `transformer_blocks.N.`
BLOCK = {
    "scale_shift_table": ("scale_shift_table",),
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.q_norm": ("attn1.norm_q",),
    "attn.k_norm": ("attn1.norm_k",),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.q_norm": ("attn2.norm_q",),
    "cross_attn.k_norm": ("attn2.norm_k",),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.inverted_conv.conv": ("ff.conv_inverted",),
    "mlp.depth_conv.conv": ("ff.conv_depth",),
    "mlp.point_conv.conv": ("ff.conv_point",),
}
SKIPPED = {"patch_embed.pos_embed": "the stored position table, which is computed here"}

# config.json fields that every released model has alike; another value is another architecture.
_FIXED = {"patch_size": 1, "attention_bias": False, "norm_elementwise_affine": False, "norm_eps": 1e-6}
_QK_NORM = "rms_norm_across_heads"


def diffusers_names(official: str, *, guidance_embed: bool) -> tuple[str, ...]:
    """Return the diffusers name of an official parameter; several where diffusers splits it.

    Raises KeyError for a name that SANA does not have.
    >>> diffusers_names("blocks.3.cross_attn.kv_linear.bias", guidance_embed=False)
    ('transformer_blocks.3.attn2.to_k.bias', 'transformer_blocks.3.attn2.to_v.bias')
    """
    module, dot, field = official.rpartition(".")
    if field not in ("weight", "bias"):
        module, dot, field = official, "", ""
    if module.startswith("blocks."):
        _, number, inner = module.split(".", 2)
        return tuple(f"transformer_blocks.{number}.{name}{dot}{field}" for name in BLOCK[inner])
    time = "" if guidance_embed else "emb."
    return tuple(f"{name.format(time=time)}{dot}{field}" for name in OUTER[module])


def renames(official_names: Iterable[str], *, guidance_embed: bool) -> list[Rename]:
    """Pair each official parameter with its diffusers names, in the given order."""
    return [((name,), diffusers_names(name, guidance_embed=guidance_embed)) for name in official_names]


def read_sana_config(config: dict[str, Any], where: str = "config.json") -> SanaConfig:
    """Read a SanaTransformer2DModel config.json; absent fields have diffusers' defaults.

    Raises WeightsError when a field describes an architecture that this code does not have.
    """
    for name, value in _FIXED.items():
        _expect(config.get(name, value) == value, where, name, config.get(name), value)
    channels = config.get("in_channels", 32)
    out_channels = config.get("out_channels", channels) or channels
    _expect(out_channels == channels, where, "out_channels", out_channels, channels)
    head_dim = config.get("attention_head_dim", 32)
    width = config.get("num_attention_heads", 70) * head_dim
    cross_heads = config.get("num_cross_attention_heads", 20)
    cross_width = cross_heads * config.get("cross_attention_head_dim", 112)
    _expect(
        cross_width == width,
        where,
        "num_cross_attention_heads * cross_attention_head_dim",
        cross_width,
        width,
    )
    caption_width = config.get("cross_attention_dim", 2240)
    _expect(caption_width == width, where, "cross_attention_dim", caption_width, width)
    qk_norm = config.get("qk_norm")
    _expect(qk_norm in (None, _QK_NORM), where, "qk_norm", qk_norm, _QK_NORM)
    guidance_embed = bool(config.get("guidance_embeds", False))
    interpolation = config.get("interpolation_scale")
    try:
        # diffusers feeds SANA 1000 t times timestep_scale, and Sprint t alone, whatever timestep_scale says.
        time_scale = 1.0 if guidance_embed else 1000.0 * float(config.get("timestep_scale", 1.0))
        return SanaConfig(
            depth=config.get("num_layers", 20),
            width=width,
            cross_heads=cross_heads,
            head_dim=head_dim,
            text_width=config.get("caption_channels", 2304),
            latent_channels=channels,
            mlp_ratio=config.get("mlp_ratio", 2.5),
            qk_norm=qk_norm is not None,
            guidance_embed=guidance_embed,
            guidance_scale_factor=config.get("guidance_embeds_scale", 0.1),
            time_scale=time_scale,
            position_interpolation=None if interpolation is None else float(interpolation),
            sample_size=config.get("sample_size", 32),
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise WeightsError(f"{where} does not describe a SANA transformer ({error}). {AGAIN}") from None


def write_sana_config(config: SanaConfig) -> dict[str, Any]:
    """Return the config.json from which diffusers builds the same transformer."""
    return {
        "_class_name": "SanaTransformer2DModel",
        "_diffusers_version": "0.32.0",
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "num_attention_heads": config.width // config.head_dim,
        "attention_head_dim": config.head_dim,
        "num_layers": config.depth,
        "num_cross_attention_heads": config.cross_heads,
        "cross_attention_head_dim": config.width // config.cross_heads,
        "cross_attention_dim": config.width,
        "caption_channels": config.text_width,
        "mlp_ratio": config.mlp_ratio,
        "dropout": 0.0,
        "sample_size": config.sample_size,
        "interpolation_scale": config.position_interpolation,
        "guidance_embeds": config.guidance_embed,
        "guidance_embeds_scale": config.guidance_scale_factor,
        "qk_norm": _QK_NORM if config.qk_norm else None,
        "timestep_scale": config.time_scale / (1.0 if config.guidance_embed else 1000.0),
        **_FIXED,
    }


def _expect(fits: bool, where: str, name: str, came: object, allowed: object) -> None:
    if not fits:
        raise WeightsError(
            f"{where} has {name} = {came!r} where SANA has {allowed!r}: it is another architecture. "
            "Use a SANA model."
        )
