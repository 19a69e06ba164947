"""Allowed values of the fields of published config.json files, checked before a model is built of them.

A wrong value would surface later as another library's error, or as a strange image. Absent fields are not
checked: each layout has its own defaults. Ranges are far wider than any published model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sanakit.errors import WeightsError
from sanakit.models.dc_ae.blocks import ACTIVATIONS, NORMS
from sanakit.models.streaming.config import EDIT_VARIANTS
from sanakit.models.world.config import VARIANTS
from sanakit.weights.read.disk import AGAIN

MAX_DEPTH = 1000  # layers; a config.json that asks for a million would keep the machine busy for hours
SHOWN = 80  # characters of a wrong value that a message quotes


class Allowed(Protocol):
    """The values that one field may have."""

    def fits(self, value: Any) -> bool:
        """Return whether the value is allowed."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Whole:
    """Whole numbers of a range."""

    least: int
    most: int

    def fits(self, value: Any) -> bool:
        """Return whether the value is one of them."""
        return type(value) is int and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"


@dataclass(frozen=True, slots=True)
class Number:
    """Finite numbers of a range."""

    least: float
    most: float

    def fits(self, value: Any) -> bool:
        """Return whether the value is one of them."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a number from {self.least:g} to {self.most:,g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Certain values."""

    values: tuple[Any, ...]

    def fits(self, value: Any) -> bool:
        """Return whether the value is one of them; 0 and 1 are not False and True."""
        return any(type(value) is type(one) and value == one for one in self.values)

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values))


@dataclass(frozen=True, slots=True)
class ListOf:
    """Lists of at least one allowed item."""

    item: Allowed
    empty: bool = False  # an empty list is allowed, too
    length: int | None = None  # items; None: any number

    def fits(self, value: Any) -> bool:
        """Return whether the value is such a list."""
        many = isinstance(value, list) and bool(value or self.empty) and self.length in (None, len(value))
        return many and all(map(self.item.fits, value))

    def __str__(self) -> str:
        return f"a list{'' if self.length is None else f' of {self.length}'}, each item {self.item}"


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Objects; their own fields are checked where they are read."""

    def fits(self, value: Any) -> bool:
        """Return whether the value is one."""
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "an object"


@dataclass(frozen=True, slots=True)
class Either:
    """Any of several kinds of values."""

    kinds: tuple[Allowed, ...]

    def fits(self, value: Any) -> bool:
        """Return whether the value is of one of the kinds."""
        return any(kind.fits(value) for kind in self.kinds)

    def __str__(self) -> str:
        return ", or ".join(map(str, self.kinds))


FLAG = OneOf((True, False))
NULL = OneOf((None,))
COUNT = Whole(1, 1_000_000)
DEPTH = Whole(1, MAX_DEPTH)
FACTOR = Number(1e-6, 1e6)
BLOCKS = OneOf(("ResBlock", "EfficientViTBlock"))
NORM, ACTIVATION = OneOf(NORMS), OneOf(tuple(ACTIVATIONS))
EPSILON = Number(1e-12, 0.1)
GROUP = Either((JsonObject(), NULL))
TEXT = {  # of transformers' Gemma2Config
    "vocab_size": COUNT,
    "hidden_size": COUNT,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": COUNT,
    "num_key_value_heads": COUNT,
    "head_dim": COUNT,
    "intermediate_size": COUNT,
    "query_pre_attn_scalar": FACTOR,
    "attn_logit_softcapping": Either((FACTOR, NULL)),  # null is refused with its reason
    "sliding_window": Whole(1, 2**31),
    "layer_types": Either((ListOf(OneOf(("sliding_attention", "full_attention"))), NULL)),
    "rope_theta": Number(1, 1e9),
    "rms_norm_eps": EPSILON,
    "rope_scaling": NULL,
    "rope_parameters": GROUP,
    "attention_bias": FLAG,
    "use_bidirectional_attention": Either((FLAG, NULL)),
    "tie_word_embeddings": FLAG,
    "final_logit_softcapping": Either((FACTOR, NULL)),  # of ShieldGemma's answers
}
ROPE = {"rope_type": OneOf(("default",)), "rope_theta": TEXT["rope_theta"]}  # in its rope_parameters
TRANSFORMER = {  # of diffusers' SanaTransformer2DModel
    "num_layers": DEPTH,
    "num_attention_heads": COUNT,
    "attention_head_dim": COUNT,
    "num_cross_attention_heads": COUNT,
    "cross_attention_head_dim": COUNT,
    "cross_attention_dim": COUNT,
    "caption_channels": COUNT,
    "in_channels": COUNT,
    "out_channels": Either((COUNT, NULL)),
    "mlp_ratio": Number(0.01, 100),
    "guidance_embeds": FLAG,
    "guidance_embeds_scale": FACTOR,
    "timestep_scale": FACTOR,
    "interpolation_scale": Either((FACTOR, NULL)),
    "sample_size": Whole(1, 4096),
    "patch_size": COUNT,
    "attention_bias": FLAG,
    "norm_elementwise_affine": FLAG,
    "norm_eps": EPSILON,
}
VIDEO_TRANSFORMER = {  # of diffusers' SanaVideoTransformer3DModel
    **TRANSFORMER,
    "patch_size": ListOf(COUNT, length=3),  # of frames, rows and columns
    "guidance_embeds": OneOf((False,)),  # an option of the class that no release has
    "rope_max_seq_len": COUNT,
}
WORLD_TRANSFORMER = {  # of diffusers' SanaWMTransformer3DModel
    "in_channels": COUNT,
    "num_layers": DEPTH,
    "hidden_size": COUNT,
    "num_attention_heads": COUNT,
    "linear_head_dim": COUNT,
    "softmax_every_n": Whole(0, MAX_DEPTH),
    "conv_kernel_size": Whole(1, 1000),
    "chunk_plucker_channels": COUNT,
    "chunk_plucker_post_attn_blocks": Whole(-1, MAX_DEPTH),
    "image_size": Whole(1, 1_000_000),
    "caption_channels": COUNT,
    "mlp_ratio": TRANSFORMER["mlp_ratio"],
    "sanakit": JsonObject(),  # ours: what that class does not know
}
VIDEO2_TRANSFORMER = {  # of sglang's SanaVideo2Transformer3DModel; diffusers has none
    "in_channels": COUNT,
    "hidden_size": COUNT,
    "depth": DEPTH,
    "num_heads": COUNT,
    "linear_head_dim": COUNT,
    "softmax_head_dim": COUNT,
    "softmax_ratio": Number(1e-6, 1),
    "mlp_ratio": TRANSFORMER["mlp_ratio"],
    "caption_channels": COUNT,
    "attn_res_block_size": Whole(1, MAX_DEPTH),
    "sample_size": TRANSFORMER["sample_size"],  # ours: what that class does not know
}
SANA = {  # of our SanaConfig, as a .pth file that we wrote holds it
    "depth": DEPTH,
    "width": COUNT,
    "cross_heads": COUNT,
    "head_dim": COUNT,
    "text_width": COUNT,
    "latent_channels": COUNT,
    "mlp_ratio": TRANSFORMER["mlp_ratio"],
    "qk_norm": FLAG,
    "guidance_embed": FLAG,
    "guidance_scale_factor": FACTOR,
    "time_scale": FACTOR,
    "position_interpolation": TRANSFORMER["interpolation_scale"],
    "sample_size": TRANSFORMER["sample_size"],
}
SANA_VIDEO = {**SANA, "patch": COUNT, "max_positions": COUNT, "causal": FLAG}  # of our SanaVideoConfig
SANA_VIDEO2 = {  # of our SanaVideo2Config
    **SANA,
    "patch": COUNT,
    "max_positions": COUNT,
    "softmax_head_dim": COUNT,
    "softmax_share": VIDEO2_TRANSFORMER["softmax_ratio"],
    "group": VIDEO2_TRANSFORMER["attn_res_block_size"],
}
SANA_STREAMING = {  # of our SanaStreamingConfig, in a .pth of ours and in config.json
    **SANA,
    "patch": COUNT,
    "max_positions": COUNT,
    "softmax_share": Number(0, 1),
    "variant": OneOf(EDIT_VARIANTS),
    "softmax_taps": Whole(1, 999),
    "sink_chunks": Whole(0, 1_000_000),
    "recent_chunks": Whole(0, 1_000_000),
}
SANA_WM = {  # of our SanaWMConfig
    **SANA,
    "patch": COUNT,
    "max_positions": COUNT,
    "softmax_every": WORLD_TRANSFORMER["softmax_every_n"],
    "taps": WORLD_TRANSFORMER["conv_kernel_size"],
    "plucker_channels": COUNT,
    "plucker_blocks": Either((Whole(0, MAX_DEPTH), NULL)),
    "variant": OneOf(VARIANTS),
    "sink_chunks": Whole(0, 1_000_000),
    "recent_chunks": Whole(0, 1_000_000),
    "capped": FLAG,
    "rounded": FLAG,
}
HALF = {  # of either half of diffusers' AutoencoderDC, after `encoder_` or `decoder_`
    "block_types": Either((BLOCKS, ListOf(BLOCKS))),
    "block_out_channels": ListOf(COUNT),
    "layers_per_block": ListOf(Whole(0, MAX_DEPTH)),
    "qkv_multiscales": ListOf(ListOf(Whole(1, 99), empty=True)),
    "norm_types": Either((NORM, ListOf(NORM))),
    "act_fns": Either((ACTIVATION, ListOf(ACTIVATION))),
}
AUTOENCODER = {
    "in_channels": COUNT,
    "latent_channels": COUNT,
    "attention_head_dim": COUNT,
    "scaling_factor": Number(1e-3, 1e3),
    "encoder_out_shortcut": FLAG,
    "decoder_in_shortcut": FLAG,
    "downsample_block_type": OneOf(("pixel_unshuffle", "Conv", "conv")),
    "upsample_block_type": OneOf(("pixel_shuffle", "interpolate")),
    "decoder_conv_act_fn": ACTIVATION,
    **{f"encoder_{name}": allowed for name, allowed in HALF.items()},
    **{f"decoder_{name}": allowed for name, allowed in HALF.items()},
}
WAN_VAE = {  # of diffusers' AutoencoderKLWan; `models/video/wan_config.py` refuses what Wan 2.1 does not have
    "base_dim": COUNT,
    "z_dim": COUNT,
    "dim_mult": ListOf(Whole(1, 1000)),
    "num_res_blocks": DEPTH,
    "temperal_downsample": ListOf(FLAG, empty=True),
    "latents_mean": ListOf(Number(-1e6, 1e6)),
    "latents_std": ListOf(Number(1e-6, 1e6)),
    "scale_factor_spatial": Either((COUNT, NULL)),
    "scale_factor_temporal": Either((COUNT, NULL)),
}
STEP = OneOf(("spatial", "temporal", "spatiotemporal"))
PADDING = OneOf(("zeros", "reflect"))
FLAGS = Either((FLAG, ListOf(FLAG)))
LTX2_VAE = {  # of diffusers' AutoencoderKLLTX2Video; some are read in `models/video/ltx2_config.py` alone
    "latent_channels": COUNT,
    "block_out_channels": ListOf(COUNT),
    "decoder_block_out_channels": ListOf(COUNT),
    "layers_per_block": ListOf(DEPTH),
    "decoder_layers_per_block": ListOf(DEPTH),
    "downsample_type": ListOf(STEP),
    "upsample_type": ListOf(STEP),
    "decoder_upsample_type": Either((ListOf(STEP), NULL)),  # of the causal class
    "upsample_factor": ListOf(Whole(1, 8)),
    **dict.fromkeys(("upsample_residual", "decoder_inject_noise"), FLAGS),
    **dict.fromkeys(("spatio_temporal_scaling", "decoder_spatio_temporal_scaling"), FLAGS),
    **dict.fromkeys(("encoder_causal", "decoder_causal", "timestep_conditioning"), FLAG),
    **dict.fromkeys(("encoder_spatial_padding_mode", "decoder_spatial_padding_mode"), PADDING),
    "patch_size": Whole(1, 64),
    "spatial_compression_ratio": Either((COUNT, NULL)),
    "temporal_compression_ratio": Either((COUNT, NULL)),
}
CLIP = {  # of transformers' CLIPModel; the sizes of its towers lie in these objects
    "projection_dim": COUNT,
    **dict.fromkeys(("text_config", "vision_config", "text_config_dict", "vision_config_dict"), GROUP),
}
CLIP_TOWER = {  # of either; what the other alone has is absent
    "hidden_size": COUNT,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": COUNT,
    "intermediate_size": COUNT,
    "hidden_act": OneOf(("quick_gelu", "gelu")),
    "layer_norm_eps": EPSILON,
    "image_size": COUNT,
    "patch_size": COUNT,
    "num_channels": COUNT,
    "vocab_size": COUNT,
    "max_position_embeddings": COUNT,
    "eos_token_id": Whole(0, 1_000_000),
}
SIDE = Whole(1, 65_536)  # pixels
CLIP_IMAGES = {  # of its preprocessor_config.json
    "size": Either((SIDE, JsonObject())),
    "crop_size": Either((SIDE, JsonObject())),
    "resample": Whole(0, 5),
    **{f"do_{step}": FLAG for step in ("resize", "rescale", "normalize", "center_crop")},
    "image_mean": ListOf(Number(-100, 100), length=3),
    "image_std": ListOf(Number(1e-6, 100), length=3),
}
CLIP_SIDES = {"shortest_edge": SIDE, "height": SIDE, "width": SIDE}  # in its size and crop_size


def check_clip(config: Mapping[str, Any], where: object) -> None:
    """Raise WeightsError naming the first field of a CLIP's config.json that is not allowed."""
    check_fields(config, CLIP, where)
    for name in CLIP:
        if isinstance(tower := config.get(name), dict):
            check_fields(tower, CLIP_TOWER, f"{where}, in {name},")


def check_clip_images(config: Mapping[str, Any], where: object) -> None:
    """Raise WeightsError naming the first field of a preprocessor_config.json that is not allowed."""
    check_fields(config, CLIP_IMAGES, where)
    for name in ("size", "crop_size"):
        if isinstance(sides := config.get(name), dict):
            check_fields(sides, CLIP_SIDES, f"{where}, in {name},")


def check_fields(config: Mapping[str, Any], fields: Mapping[str, Allowed], where: object) -> None:
    """Raise WeightsError naming the first field that `fields` do not allow. where: the file."""
    for name, allowed in fields.items():
        if name in config and not allowed.fits(config[name]):
            came = repr(config[name])
            came = came if len(came) <= SHOWN else f"{came[:SHOWN]}..."
            raise WeightsError(f"{where} says {name} = {came}; it must be {allowed}. {AGAIN}")


def check_rope(config: Mapping[str, Any], where: object) -> None:
    """Raise WeightsError for rotary positions of a text encoder that are not the published, plain ones."""
    check_fields(config.get("rope_parameters") or {}, ROPE, f"{where}, in rope_parameters,")
