"""A new adapter to train: which products it changes, of what rank, and the values it begins with.

A is normal with a standard deviation of 1 / rank, as in the published training script of SANA; B is zero, so
that the model is unchanged at first. Queries, keys and values are changed apart, each with an A of its own.
Shapes: K in, r rank, n rows of a product's outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from sanakit.adapters.adapter import Adapter, AdapterPart
from sanakit.adapters.names import Place, spellings
from sanakit.adapters.read import MAX_RANK
from sanakit.errors import SettingsError
from sanakit.models.sana import SanaConfig

_READS = tuple(f"{attention}.to_{one}" for attention in ("attn1", "attn2") for one in "qkv")
_ATTENTION = (*_READS, "attn1.to_out.0", "attn2.to_out.0")
PRESETS: Mapping[str, tuple[str, ...]] = {
    "published": _READS,
    "attention": _ATTENTION,
    "blocks": (*_ATTENTION, "ff.conv_inverted", "ff.conv_point"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSize:
    """Which products a new adapter changes, and of what rank.

    layers: a preset, or names of modules in diffusers' or the official spelling, whole or their endings.
    alpha: the change is multiplied by alpha / rank; None: the rank, a factor of 1. ranks, alphas: those of
    single layers, by endings of their names. Raises SettingsError for ranks or alphas out of range.
    """

    layers: str | Collection[str] = "blocks"
    rank: int = 8
    alpha: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rank in (self.rank, *self.ranks.values()):
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
                raise SettingsError(f"rank = {rank!r}, but it must be a whole number from 1 to {MAX_RANK}.")
        for alpha in (self.rank if self.alpha is None else self.alpha, *self.alphas.values()):
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
                raise SettingsError(f"alpha = {alpha!r}, but it must be a number above 0.")


def fresh_adapter(config: SanaConfig, size: AdapterSize, generator: torch.Generator) -> Adapter:
    """Return an adapter of float32 tensors on the CPU that changes nothing yet.

    config: of the transformer. Raises SettingsError for names that stand for no product of it, or twice for
    the same rows of one.
    """
    names = spellings(config)
    chosen = _chosen(names, size.layers)
    for ending in (*size.ranks, *size.alphas):
        if not any(_ends(name, ending) for name in chosen):
            raise SettingsError(f"{ending!r} has a rank or an alpha, but it is none of the adapter's layers.")
    parts: list[AdapterPart] = []
    for name, place in chosen.items():
        rank = next((own for ending, own in size.ranks.items() if _ends(name, ending)), size.rank)
        alpha = next((own for ending, own in size.alphas.items() if _ends(name, ending)), size.alpha)
        down = torch.randn(rank, place.inputs, generator=generator, dtype=torch.float32) / rank
        up = torch.zeros(place.stop - place.start, rank, dtype=torch.float32)
        parts.append(
            AdapterPart(place=place, down=down, up=up, alpha=float(rank if alpha is None else alpha))
        )
    return Adapter(parts=tuple(parts))


def _chosen(names: Mapping[str, Place], layers: str | Collection[str]) -> dict[str, Place]:
    """Return the products that a preset, or endings of names, stand for."""
    if isinstance(layers, str):
        if layers not in PRESETS:
            raise SettingsError(
                f"layers = {layers!r}, but it must be {', '.join(PRESETS)}, or a list of names."
            )
        layers = PRESETS[layers]
    chosen: dict[str, Place] = {}
    for ending in layers:
        found = {name: place for name, place in names.items() if _ends(name, ending)}
        if not found:
            raise SettingsError(
                f"No product of this model is named {ending!r}: see its names in sana inspect."
            )
        chosen |= found
    by_place = {place: name for name, place in chosen.items()}  # one of two spellings of the same
    kept = {name: place for place, name in by_place.items()}
    spans = sorted((place.module, place.start, place.stop, name) for name, place in kept.items())
    for (module, _, stop, name), (other, start, _, second) in pairwise(spans):
        if module == other and start < stop:
            raise SettingsError(
                f"{name} and {second} are the same layer, in whole and in part: name it once."
            )
    if not kept:
        raise SettingsError("An adapter needs at least one layer.")
    return kept


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
