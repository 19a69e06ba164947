"""A tiny transformer, LoRA of random numbers for it, and the transformer that it should become: an oracle."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sanakit.adapters.adapter import Adapter, AdapterPart
from sanakit.adapters.names import Place, products, spellings
from sanakit.models.sana import Sana, SanaConfig

SANA = SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=8, sample_size=4)
RANK = 3
SPLIT = [f"transformer_blocks.{n}.attn{m}.to_{one}" for n in range(2) for m in (1, 2) for one in "qkv"]


def transformer(config: SanaConfig = SANA, seed: int = 0) -> Sana:
    """A transformer whose every parameter matters."""
    torch.manual_seed(seed)
    model = Sana(config)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    return model.eval().requires_grad_(False)


def lora(
    modules: Sequence[str] | None = None,
    config: SanaConfig = SANA,
    *,
    rank: int = RANK,
    alpha: float | None = None,
    seed: int = 1,
    dora: bool = False,
    spread: float = 0.1,
) -> Adapter:
    """An adapter on modules in either spelling; None: on every product."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name in products(config) if modules is None else modules:
        place = spellings(config)[name]
        rows = place.stop - place.start
        down = torch.randn(rank, place.inputs, generator=generator) * spread
        up = torch.randn(rows, rank, generator=generator) * spread
        magnitude = 1 + torch.rand(rows, generator=generator) if dora else None
        parts.append(AdapterPart(place=place, down=down, up=up, alpha=alpha or rank, magnitude=magnitude))
    return Adapter(parts=tuple(parts), file=f"{seed}.safetensors", fingerprint=f"{seed}")


def weight_of(model: nn.Module, place: Place) -> Tensor:
    """The rows of a float model's weight that a place stands for, N K."""
    weight = model.get_parameter(f"{place.module}.weight")
    return weight.flatten(1)[place.start : place.stop]


def became(model: Sana, *weighed: tuple[Adapter, float]) -> Sana:
    """A copy of a float model with the adapters in its weights, by the papers' formulas in float64."""
    changed = copy.deepcopy(model)
    for adapter, weight in weighed:
        for part in adapter.parts:
            base = weight_of(model, part.place).double()
            scale = part.alpha / (math.sqrt(part.rank) if part.stabilised else part.rank)
            full = base + scale * part.up.double() @ part.down.double()
            if part.magnitude is not None:
                full = part.magnitude.double()[:, None] * full / full.norm(dim=1, keepdim=True)
            weight_of(changed, part.place).copy_(weight_of(changed, part.place) + weight * (full - base))
    return changed


def inputs(config: SanaConfig = SANA) -> dict[str, Any]:
    """Two samples of a prompt of five tokens and one of a single token."""
    generator = torch.Generator().manual_seed(5)
    text = torch.randn(2, 5, config.text_width, generator=generator)
    mask = torch.tensor([[True] * 5, [True] + [False] * 4])
    latents = torch.randn(2, config.latent_channels, 6, 5, generator=generator)
    guidance = torch.tensor([4.5, 3.0]) if config.guidance_embed else None
    return {
        "latents": latents,
        "t": torch.tensor([0.8, 0.3]),
        "text": text,
        "mask": mask,
        "guidance": guidance,
    }


def trained_way(model: Sana) -> Tensor:
    """What `forward` gives."""
    return model(**inputs(model.config))


def sampled_way(model: Sana, bands: bool = False) -> Tensor:
    """What `prepare` and `velocity` give."""
    given = inputs(model.config)
    features = [row[real] for row, real in zip(given["text"], given["mask"], strict=True)]
    return model.velocity(given["latents"], given["t"], model.prepare(features), given["guidance"])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def written(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """A safetensors file, with peft's settings in its header as diffusers writes them."""
    header = {"format": "pt", **(texts or {})}
    if config is not None:
        header["lora_adapter_metadata"] = json.dumps({f"transformer.{k}": v for k, v in config.items()})
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, header)
    return path
