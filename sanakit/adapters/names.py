"""Which tensor of an adapter's file belongs where: the names that trainers write, matched to a model's own.

A name is a prefix, a module and a field. Modules are spelled as the official checkpoints do (queries, keys
and values fused) or as diffusers does (apart); trainers of Kohya's kind write "_" for every ".", which also
stands within names. So such a name is looked up in the list of the model's modules, and never split.
Source: files of diffusers, peft, Kohya's scripts, OneTrainer and LyCORIS.
Shapes: K in, N out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sanakit.models.sana import TIME_CHANNELS, SanaConfig
from sanakit.weights.layouts.diffusers import diffusers_names

DOTTED = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
# Tensors of other networks, which many trainers write into the same file.
ELSEWHERE = {
    "the text encoder, whose adapters are not used": (
        *("text_encoder.", "text_encoder_", "text_encoders.", "lora_te_", "lora_te1_", "lora_te2_"),
        "lora_text_encoder",
    ),
    "embeddings trained for new words, which are not used": ("bundle_emb.",),
}
DOWN, UP, ALPHA, MAGNITUDE = "down", "up", "alpha", "magnitude"
FIELDS = {
    "lora_A.weight": DOWN,
    "lora_A.default.weight": DOWN,
    "lora_down.weight": DOWN,
    "lora.down.weight": DOWN,
    "lora_B.weight": UP,
    "lora_B.default.weight": UP,
    "lora_up.weight": UP,
    "lora.up.weight": UP,
    "alpha": ALPHA,
    "lora_alpha": ALPHA,
    "lora_magnitude_vector": MAGNITUDE,
    "lora_magnitude_vector.weight": MAGNITUDE,
    "lora_magnitude_vector.default.weight": MAGNITUDE,
    "dora_scale": MAGNITUDE,
}
# Pattern in a tensor's name -> the kind of adapter that it is of, none of which is read here.
OTHER_KINDS = {
    r"\.lokr_": "LoKr",
    r"\.hada_": "LoHa",
    r"\.b?oft_": "OFT",
    r"\.ia3_": "IA3",
    r"\.lora_E\b": "AdaLoRA",
    r"\.lora_mid\b": "LoRA with a middle matrix (LoCon's Tucker form)",
    r"\.vera_": "VeRA",
    r"\.lora_(B\.|)bias\b": "LoRA with biases",
    r"\.diff(_b)?$": "full differences of weights",
    r"\.modules_to_save\.": "LoRA with whole layers",
}
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
# Modules in a name -> the family of models that it is of.
_FAMILIES = {
    r"double_blocks|single_blocks|single_transformer_blocks": "FLUX or HunyuanVideo",
    r"joint_blocks|add_[qkv]_proj|attn2?\.to_add_out": "Stable Diffusion 3",
    r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block": "Stable Diffusion 1.5 or XL",
    r"blocks[._]\d+[._]self_attn[._][qkvo]\b": "Wan",
    r"img_mlp|txt_mlp": "Qwen-Image",
    r"noise_refiner|context_refiner": "Lumina or Z-Image",
    r"(^|\.)model\.layers\.\d+\.": "a language model",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A run of the rows of one product's weight."""

    module: str  # the official name of what holds the weight, "blocks.3.attn.qkv"
    start: int
    stop: int
    inputs: int  # K

    @property
    def layer(self) -> str:
        """The product over tokens (or the latents' embedder) whose weight it is, as a submodule's name."""
        return {"x_embedder.proj": "x_embedder"}.get(self.module, self.module.removesuffix(".conv"))


@dataclass(slots=True)
class Sorted:
    """The tensors of a file by their places, and those without one."""

    fields: dict[Place, dict[str, str]] = field(default_factory=dict)  # DOWN, UP ... -> name in the file
    spelled: dict[Place, str] = field(default_factory=dict)  # the module as the file spells it, dotted
    elsewhere: dict[str, int] = field(default_factory=dict)  # why it is not used -> number of tensors
    unknown: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)  # names of a tensor that another name stands for as well
    layouts: set[str] = field(default_factory=set)  # "official", "diffusers"


def products(config: SanaConfig) -> dict[str, tuple[int, int]]:
    """Return every product of a transformer that takes adapters: its official name -> K, N."""
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    block = {
        "attn.qkv": (width, 3 * width),
        "attn.proj": (width, width),
        "cross_attn.q_linear": (width, width),
        "cross_attn.kv_linear": (width, 2 * width),
        "cross_attn.proj": (width, width),
        "mlp.inverted_conv.conv": (width, 2 * hidden),
        "mlp.point_conv.conv": (hidden, width),
    }
    found = {"x_embedder.proj": (config.latent_channels, width)}
    for embedder in ("t_embedder", *(["cfg_embedder"] if config.guidance_embed else [])):
        found |= {f"{embedder}.mlp.0": (TIME_CHANNELS, width), f"{embedder}.mlp.2": (width, width)}
    found |= {"t_block.1": (width, 6 * width), "y_embedder.y_proj.fc1": (config.text_width, width)}
    found["y_embedder.y_proj.fc2"] = (width, width)
    for number in range(config.depth):
        found |= {f"blocks.{number}.{name}": sizes for name, sizes in block.items()}
    return found | {"final_layer.linear": (width, config.latent_channels)}


def spellings(config: SanaConfig) -> dict[str, Place]:
    """Return every name of a module in either spelling, and its place in a model.

    diffusers calls the embedder of time otherwise in SANA-Sprint; both names are known for all models.
    """
    found: dict[str, Place] = {}
    for module, (inputs, outputs) in products(config).items():
        found[module] = Place(module, 0, outputs, inputs)
        for sprint in (False, True):
            theirs = diffusers_module(module, guidance_embed=sprint)
            step = outputs // len(theirs)
            places = [Place(module, step * n, step * (n + 1), inputs) for n in range(len(theirs))]
            found |= zip(theirs, places, strict=True)
    return found


def diffusers_module(module: str, *, guidance_embed: bool) -> tuple[str, ...]:
    """Return diffusers' names of an official module, several where it is split there."""
    names = diffusers_names(f"{module}.weight", guidance_embed=guidance_embed)
    return tuple(name.removesuffix(".weight") for name in names)


def sort_names(names: Iterable[str], places: Mapping[str, Place]) -> Sorted:
    """Find the place of every tensor of a file. places: as from `spellings`."""
    found, flat = Sorted(), {name.replace(".", "_"): name for name in places}
    for name in names:
        reason = next((why for why, starts in ELSEWHERE.items() if name.startswith(starts)), None)
        if reason is not None:
            found.elsewhere[reason] = found.elsewhere.get(reason, 0) + 1
            continue
        module, kind = split_field(name)
        spelled = _module(module, places, flat) if kind else ""
        if not spelled:
            found.unknown.append(name)
            continue
        place = places[spelled]
        own = found.fields.setdefault(place, {})
        if kind in own:
            found.twice.append(name)
        own[kind] = name
        found.spelled[place] = spelled
        found.layouts.add("official" if spelled == place.module else "diffusers")
    return found


def split_field(name: str) -> tuple[str, str]:
    """Return the module and the field of a tensor's name; the field is "" for what no LoRA has.

    >>> split_field("transformer.blocks.0.attn.qkv.lora_A.weight")
    ('transformer.blocks.0.attn.qkv', 'down')
    """
    if match := _PROCESSOR.search(name):
        module = "to_out.0" if match[1] == "out" else f"to_{match[1]}"
        return f"{name[: match.start()]}.{module}", match[2]
    for ending, kind in FIELDS.items():
        if name.endswith(f".{ending}"):
            return name[: -len(ending) - 1], kind
    return name, ""


def other_kind(names: Iterable[str]) -> str:
    """Return the kind of adapter that a file holds, if it is one that is not read here; else ""."""
    return _told(OTHER_KINDS, names)


def family(names: Iterable[str]) -> str:
    """Return the other family of models that tensors seem to be of, or ""."""
    return _told(_FAMILIES, names)


def _told(patterns: Mapping[str, str], names: Iterable[str]) -> str:
    """Return what the first pattern stands for that is found in any of the names, or ""."""
    names = list(names)
    return next((told for one, told in patterns.items() if any(re.search(one, name) for name in names)), "")


def _module(name: str, places: Mapping[str, Place], flat: Mapping[str, str]) -> str:
    """Return a module as `places` spells it, without its prefixes; "" for an unknown one."""
    while name not in places:
        if (prefix := next((one for one in DOTTED if name.startswith(one)), None)) is not None:
            name = name.removeprefix(prefix)
        elif (prefix := next((one for one in FLAT if name.startswith(one)), None)) is not None:
            return flat.get(name.removeprefix(prefix), "")
        else:
            return ""
    return name
